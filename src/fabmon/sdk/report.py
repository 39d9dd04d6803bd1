"""From a job to its sidecar, at no cost to the job.

`Reporter` takes events into a bounded queue and sends them from one background thread, each with its own POST to
/v1/ingest/events; the caller never waits, until `close` waits for at most the given time. A sidecar that is away is
tried again after 1, 2, 4 ... 60 seconds and whenever there is news. What it has not taken is kept on disk (unsent.py)
from the first failure on, and sent by the next run that reaches the same sidecar.
"""

import os
import re
import threading
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid4, uuid5

from fabmon.clock import monotonic, now
from fabmon.errors import BadEvent, FabmonError, PeerRefused, SettingsError
from fabmon.sdk import unsent
from fabmon.wire.codec import decode_object, encode
from fabmon.wire.event import App, Entity, Event, Happening, Kind, Status, read_event

if TYPE_CHECKING:
    from http.client import HTTPConnection

DEFAULT_URL: Final = "http://localhost:8000"
DEFAULT_SITE_ID: Final = "fab1"
APP_NAMESPACE: Final = UUID("7a3e51c4-0d5b-4f0c-9a51-6f1d0b8f2c11")

QUEUE_LIMIT_EVENTS: Final = 10_000
CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 1.5
ANSWER_LIMIT_BYTES: Final = 64 * 1024
FLUSH_SECONDS: Final = 2.0
LEFTOVERS_SECONDS: Final = 0.5
LONGEST_RETRY_SECONDS: Final = 60.0

_URL: Final = re.compile(
    r"\A(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?(?P<path>(?:/[!-~]*)?)\Z"
)
# Answers that the same event would get again, whatever changes around it.
_NEVER_TAKEN: Final = frozenset({400, 413, 415, 422})


class Address(NamedTuple):
    """Where the sidecar listens."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def short_name(self) -> str:
        """Stands for the address in the name of a file."""
        return uuid5(APP_NAMESPACE, f"{self.secure} {self.host.lower()} {self.port} {self.path}").hex[:12]


def read_address(url: str) -> Address:
    """The parts of a sidecar's URL. Raises SettingsError."""
    match = _URL.match(url)
    port = int((match and match["port"]) or 0)
    if match is None or port > 65535 or re.search("[?#]", match["path"]):
        raise SettingsError(f"the sidecar's URL is http://HOST:PORT or https://HOST:PORT (it is {url[:200]!r})")
    secure = match["scheme"] == "https"
    return Address(secure, match["host"].strip("[]"), port or (443 if secure else 80), match["path"].rstrip("/"))


def read_token(environment: Mapping[str, str]) -> str:
    """FABMON_TOKEN, or what the file FABMON_TOKEN_FILE holds. Raises SettingsError."""
    path = environment.get("FABMON_TOKEN_FILE", "")
    if environment.get("FABMON_TOKEN") or not path:
        return environment.get("FABMON_TOKEN", "")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"FABMON_TOKEN_FILE: {path!r} cannot be read: {error}") from None


def unsent_directory(environment: Mapping[str, str]) -> Path:
    if environment.get("FABMON_DATA_DIR"):
        return Path(environment["FABMON_DATA_DIR"]) / "unsent"
    from fabmon.settings import default_data_dir  # 10 ms that a run with a sidecar need not spend

    return default_data_dir() / "unsent"


def app_of(name: str, version: str | None = None) -> App:
    """The app of this name; its id follows from the name alone, on every host."""
    return App(uuid5(APP_NAMESPACE, name), name, version)


def event_of(
    site_id: str,
    app: App,
    entity: Entity,
    kind: Kind,
    at: datetime,
    *,
    status: Status | None = None,
    metrics: Mapping[str, float | None] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Event:
    """A new event with a key of its own; a metric without a value is left out."""
    known = {name: float(value) for name, value in (metrics or {}).items() if value is not None}
    return Event(uuid4(), site_id, app, entity, Happening(kind, at, status, known, dict(metadata or {})))


def check(event: Event) -> None:
    """Raises BadEvent when a sidecar would refuse *event*."""
    try:
        line = encode(event)
    except UnicodeEncodeError:
        raise BadEvent("a value is no valid UTF-8", "not_utf8") from None
    read_event(line, now=now())


class Reporter:
    """Sends the events of one run. Nothing that it does raises into the caller."""

    def __init__(self, address: Address, run_name: str, environment: Mapping[str, str] = os.environ) -> None:
        self._address = address
        self._name = f"{address.short_name}-{run_name}"
        self._environment = environment
        self._pending: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._news = self._closing = False
        self._leftovers_until: float | None = None
        self._disk = threading.Lock()
        self._on_disk: list[bytes] = []
        self._trouble: str | None = None
        self._lost: str | None = None
        self._thread: threading.Thread | None = None

    def send(self, event: Event) -> None:
        """Take *event* for sending; one too many is dropped, and `close` says so."""
        with self._changed:
            self._take(event)
            self._changed.notify()
        self._start()

    def close(self, last: Event | None = None, within_seconds: float = FLUSH_SECONDS) -> str | None:
        """Send what is left, or keep it on disk. One line about what needs a person: refused, or lost; else None."""
        with self._changed:
            if last is not None:
                self._take(last)
            self._closing = True
            self._leftovers_until = monotonic() + min(within_seconds, LEFTOVERS_SECONDS)
            self._changed.notify()
        self._start()
        if self._thread is not None:
            self._thread.join(within_seconds)
        self._keep()
        return self._lost or self._trouble

    def _take(self, event: Event) -> None:
        self._news = True
        if len(self._pending) >= QUEUE_LIMIT_EVENTS:
            self._lost = f"more than {QUEUE_LIMIT_EVENTS} events were waiting; the rest is lost"
            return
        self._pending.append(encode(event))

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._work, name="fabmon-report", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads: `close` keeps the events
            return
        self._thread = thread

    def _work(self) -> None:
        delay: float | None = None
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._news or self._closing, timeout=delay)
                self._news, closing = False, self._closing
            try:
                self._send_all()
                delay = None
            except Exception as error:  # noqa: BLE001  (a job must not see a traceback of its monitoring)
                self._trouble = _what_needs_a_person(error)
                delay = min(2 * delay, LONGEST_RETRY_SECONDS) if delay else 1.0
                self._keep()

    def _send_all(self) -> None:
        """Everything that waits here, oldest first; then what earlier runs have left."""
        connection = _connect(self._address)
        try:
            headers = {"Content-Type": "application/json"}
            if token := read_token(self._environment):
                headers["Authorization"] = f"Bearer {token}"
            while self._pending:
                self._lost = self._post(connection, headers, self._pending[0]) or self._lost
                with self._changed:
                    self._pending.popleft()
            self._trouble = None
            directory = unsent_directory(self._environment)
            with self._disk:
                unsent.forget(directory, self._name)
                self._on_disk = []
            for taken in unsent.claim(directory, self._address.short_name):
                if not self._send_leftovers(connection, headers, taken):
                    break
        finally:
            connection.close()

    def _send_leftovers(self, connection: "HTTPConnection", headers: dict[str, str], taken: Path) -> bool:
        """False when there is something better to do: the job's own events, or the end."""
        try:
            for line in taken.read_bytes().splitlines():
                if self._pending or (self._leftovers_until is not None and monotonic() > self._leftovers_until):
                    unsent.release(taken)
                    return False
                self._post(connection, headers, line)
        except BaseException:
            unsent.release(taken)
            raise
        taken.unlink(missing_ok=True)
        return True

    def _post(self, connection: "HTTPConnection", headers: dict[str, str], line: bytes) -> str | None:
        """None when the sidecar has taken the event; the reason when it never will. Raises when it may later."""
        connection.request("POST", f"{self._address.path}/v1/ingest/events", body=line, headers=headers)
        answer = connection.getresponse()
        body = answer.read(ANSWER_LIMIT_BYTES)
        if not answer.isclosed():
            connection.close()
        if 200 <= answer.status < 300:
            return None
        problem = decode_object(body) or {}
        said = f"the sidecar answered {answer.status}: {problem.get('detail') or answer.reason}"[:500]
        if answer.status in _NEVER_TAKEN:
            return said
        raise PeerRefused(said, answer.status)

    def _keep(self) -> None:
        with self._changed:
            lines = list(self._pending)
        with self._disk:
            if not lines or lines == self._on_disk:
                return
            try:
                unsent.keep(unsent_directory(self._environment), self._name, lines)
                self._on_disk = lines
            except OSError as error:
                self._lost = f"the sidecar is away, and events cannot be kept: {error}"


def _connect(address: Address) -> "HTTPConnection":
    """An open connection. http.client takes longer to import than all the rest: here, the program already runs."""
    from http import client

    kind = client.HTTPSConnection if address.secure else client.HTTPConnection
    connection = kind(address.host, address.port, timeout=CONNECT_SECONDS)
    connection.connect()
    connection.timeout = ANSWER_SECONDS
    connection.sock.settimeout(ANSWER_SECONDS)
    return connection


def _what_needs_a_person(error: Exception) -> str | None:
    """A sidecar that is away or busy comes back by itself; a wrong token, a wrong URL or a bug does not."""
    if isinstance(error, PeerRefused):
        return None if error.status >= 500 or error.status in (408, 429) else str(error)
    if isinstance(error, FabmonError):
        return str(error)
    from http.client import HTTPException

    return None if isinstance(error, OSError | HTTPException) else f"{type(error).__name__}: {error}"
