"""Jobs and subjobs of a Python program: `fabmon.job`, `fabmon.subjob`.

A `Run` is a context manager (`with` and `async with`) and a decorator of functions and coroutine functions. Runs nest by
context variables: a subjob belongs to the job around it, also over `await`. A thread pool does not carry context; there
use `job.subjob(...)`. A job inside another job, or inside `fabmon run` (FABMON_JOB_ID), becomes a subjob of it; and every
subjob belongs to the outermost job, with `parent_subjob` in its metadata where it stood inside another one.

Nothing here raises into the program, swallows its exceptions or waits for the network.
"""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from datetime import datetime, timedelta
from functools import wraps
from math import isfinite
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar
from uuid import UUID

from fabmon.clock import monotonic, now
from fabmon.sdk import own_usage, sigterm
from fabmon.sdk.address import DEFAULT_SITE_ID
from fabmon.sdk.emitter import FLUSH_SECONDS
from fabmon.sdk.ending import Ending, ending_of, shown_error
from fabmon.sdk.events import METRICS_LIMIT, Draft, metadata_of, new_key, numbers_of, text_of
from fabmon.sdk.process import OUTLET
from fabmon.sdk.quiet import QUIET
from fabmon.wire.event import App, Entity, Happening, Kind, Status
from fabmon.wire.ids import app_of

P = ParamSpec("P")
T = TypeVar("T")

_CURRENT: Final[ContextVar["Run | None"]] = ContextVar("fabmon_run", default=None)
_OPEN: Final = own_usage.Open()
_MICROSECOND: Final = timedelta(microseconds=1)


def job(
    name: str,
    *,
    key: str | None = None,
    app: str | None = None,
    metadata: Mapping[str, object] | None = None,
    version: str | None = None,
    watch_sigterm: bool = True,
) -> "Run":
    """A job, begun by `with`; as a decorator, each call of the function is one.

    *key*: the business key, such as a lot; default: the name. *app*: the application; default: that of the job around it,
    FABMON_APP, else the name. *metadata*: values without JSON are kept as their `repr`.

    With *watch_sigterm*, a SIGTERM that nothing else handles is reported as a cancellation before it ends the process as
    it would have done: at once from Python code, after the call from a long call into C.
    """
    return Run(name, key, app, metadata, version, watch_sigterm=watch_sigterm)


def subjob(name: str, *, key: str | None = None, metadata: Mapping[str, object] | None = None) -> "Run":
    """A subjob of the job around it; where there is none, a job."""
    return Run(name, key, None, metadata, None)


def current() -> "Run":
    """The innermost run of this context; outside of any, one whose calls do nothing."""
    return _CURRENT.get() or Run("none", None, None, None, None)


def flush(within_seconds: float = FLUSH_SECONDS) -> bool:
    """Wait until all that was reported is sent or on disk: before `os._exit`, say. False when it took too long."""
    return OUTLET.flush(within_seconds)


class Run:
    """One job or subjob. Calls outside of its `with` block report nothing."""

    _entity: Entity
    _job_id: UUID
    _app: App
    _site_id: str
    _begun: float
    _last_at: datetime
    _reading: own_usage.Reading | None

    def __init__(
        self,
        name: str,
        key: str | None,
        app: str | None,
        metadata: Mapping[str, object] | None,
        version: str | None,
        *,
        parent: "Run | None" = None,
        watch_sigterm: bool = True,
    ) -> None:
        self._wanted = (name, key, app, metadata, version)
        self._parent = parent
        self._watch_sigterm = watch_sigterm
        self.id: UUID = new_key()
        self._used = False
        self._pid = 0  # of the process in which it is open
        self._token: Token[Run | None] | None = None
        self._above: frozenset[object] = frozenset()

    def subjob(self, name: str, *, key: str | None = None, metadata: Mapping[str, object] | None = None) -> "Run":
        """A subjob of this job, from whichever thread or task it is begun."""
        return Run(name, key, None, metadata, None, parent=self, watch_sigterm=self._watch_sigterm)

    def progress(self, done: float, total: float | None = None) -> None:
        """How far it is: a fraction, or *done* of *total*."""
        with QUIET:
            numbers, left_out = numbers_of(
                {"progress": done} if total is None else {"progress_done": done, "progress_total": total}
            )
            if numbers.get("progress_total") and "progress_done" in numbers:
                fraction = numbers["progress_done"] / numbers["progress_total"]
                if isfinite(fraction):
                    numbers["progress"] = fraction
            self._report("progress", numbers, _left_out(left_out))

    def metric(self, **values: float) -> None:
        """Figures by name; one that is no finite number is left out, and `metrics_left_out` says so."""
        with QUIET:
            numbers, left_out = numbers_of(values)
            names = list(numbers)
            for start in range(0, len(names) or 1, METRICS_LIMIT):
                some = {name: numbers[name] for name in names[start : start + METRICS_LIMIT]}
                self._report("metric", some, _left_out(left_out))

    def metadata(self, values: Mapping[str, object] | None = None, **more: object) -> None:
        """Facts about the run; a name that is given again replaces the older value."""
        with QUIET:
            self._report("metric", {}, metadata_of({**(values or {}), **more}))

    def error(self, error: BaseException | str) -> None:
        """An error that the run survives: counted, shown as `survived_error`; the run goes on."""
        with QUIET:
            self._report("error", {}, {"survived_error": shown_error(error)}, "running")

    def __enter__(self) -> "Run":
        with QUIET:
            self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with QUIET:
            self._end(ending_of(error))
        if self._token is not None:
            with suppress(ValueError):  # left in another context than entered, as a generator may
                _CURRENT.reset(self._token)
            self._token = None

    async def __aenter__(self) -> "Run":
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Each call of *function* is a run of its own. A generator function is not a run while it is iterated."""
        import inspect

        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self._another():
                    return await function(*args, **kwargs)

            return run_async  # type: ignore[return-value]  # T is the coroutine that *function* gives

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with self._another():
                return function(*args, **kwargs)

        return run

    def _another(self) -> "Run":
        return Run(*self._wanted, parent=self._parent, watch_sigterm=self._watch_sigterm)

    def _begin(self) -> None:
        if self._used:
            self.id = new_key()
        self._used = True
        around = self._parent if self._parent is not None and self._parent._used else _CURRENT.get()
        name, key, app, metadata, version = self._wanted
        label = text_of(name) or "unnamed"
        facts: dict[str, Any] = {"name": label} | (metadata_of(metadata) if metadata else {})
        job_id = around._job_id if around is not None else _job_of_fabmon_run()
        if around is not None and around._entity.type == "subjob" and around.id != job_id:
            facts["parent_subjob"] = str(around.id)
        own_key = label if key is None else text_of(key)
        if job_id is None:
            self._entity = Entity("job", self.id, business_key=own_key)
            facts = {"host": text_of(socket.gethostname()), "pid": os.getpid()} | facts
        else:
            business_key = around._entity.business_key if around is not None else None
            self._entity = Entity("subjob", self.id, job_id, business_key, own_key)
        self._job_id = job_id or self.id
        self._app = self._app_of(around, app, version, label)
        self._site_id = text_of(os.environ.get("FABMON_SITE_ID") or DEFAULT_SITE_ID)
        if around is not None and around._pid == os.getpid():
            self._above = around._above | {around}
        self._pid = os.getpid()
        self._token = _CURRENT.set(self)
        _OPEN.begin(self, self._above)
        if self._watch_sigterm:
            sigterm.watch(_end_all)
        self._begun, self._last_at = monotonic(), now()
        self._reading = own_usage.read()
        self._report("started", {}, facts)

    def _app_of(self, around: "Run | None", app: str | None, version: str | None, label: str) -> App:
        shown_version = None if version is None else text_of(version)
        if app is None and around is not None:
            return App(around._app.app_id, around._app.name, shown_version or around._app.version)
        return app_of(text_of(app or os.environ.get("FABMON_APP") or label), shown_version)

    def _end(self, ending: Ending) -> None:
        if self._pid != os.getpid():  # a forked child leaves its parent's block: the parent will end it
            return
        alone = _OPEN.end(self)
        metrics: dict[str, float | None] = {"duration_s": monotonic() - self._begun}
        facts = dict(ending.metadata)
        if alone:
            metrics |= own_usage.between(self._reading, own_usage.read()).metrics()
        else:
            facts["usage_left_out"] = own_usage.SHARED
        known = {name: value for name, value in metrics.items() if value is not None}
        self._report(ending.kind, known, facts, ending.status)
        self._pid = 0
        if not _OPEN.now():
            sigterm.unwatch()

    def _report(
        self,
        kind: Kind,
        metrics: dict[str, float],
        metadata: dict[str, Any],
        status: Status | None = None,
    ) -> None:
        if self._pid:  # open; in a forked child, too: its progress is the run's
            # Two events of the same microsecond, or of a clock that was set back, stay in the order of the calls.
            self._last_at = max(now(), self._last_at + _MICROSECOND)
            happening = Happening(kind, self._last_at, status, metrics, metadata)
            draft = Draft(self._site_id, self._app, self._entity, happening)
            # Metadata may be large, and its size is known as JSON only.
            OUTLET.send(draft.line() if metadata else draft)


def _left_out(names: list[str]) -> dict[str, Any]:
    return {"metrics_left_out": names} if names else {}


def _job_of_fabmon_run() -> UUID | None:
    try:
        return UUID(os.environ.get("FABMON_JOB_ID", ""))
    except ValueError:
        return None


def _end_all(ending: Ending) -> None:
    """The process is about to be killed: end every open run, innermost first."""
    runs = [run for run in _OPEN.now() if isinstance(run, Run)]
    for run in sorted(runs, key=lambda run: -len(run._above)):
        with QUIET:
            run._end(ending)
    OUTLET.close(1.0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OPEN.forget)
