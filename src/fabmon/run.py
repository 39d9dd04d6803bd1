"""One role behind uvicorn. This module owns the signals, the socket and the order of start and stop.

uvicorn's own signal handling would end the process before the role's parts are closed, and its lifespan goes on answering
after a part has died; so tasks live in the role's context, and the first part to fail ends the process.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

import uvicorn

from fabmon.errors import FabmonError, SettingsError, StartError
from fabmon.hosts import is_loopback
from fabmon.httpd.limits import SWEEP_EVERY_TICKS, Limits, limited, sweep
from fabmon.httpd.role import Role
from fabmon.httpd.tls import renewed_context
from fabmon.logs import Log
from fabmon.settings import Settings

log = Log("fabmon.run")

_BACKLOG = 2048
_OTHER_FILES = 160  # the spool, the database, the peers


def run_role(opened: AbstractAsyncContextManager[Role], settings: Settings, port: int, *, with_parent: bool) -> None:
    """Serve until SIGTERM or SIGINT (or, *with_parent*, until standard input ends), then stop in order.

    Stopping: no new connections, accepted requests are finished within `stop_timeout_s`, the parts are closed. A second
    signal ends the process at once. Raises SettingsError or StartError when it cannot start.
    """
    refuse_open_doors(settings)
    tls = _tls(settings)
    with _listen(settings.host, port) as listener, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            runner.run(_serve(opened, settings, tls, listener, with_parent))
        except BaseExceptionGroup as group:
            raise first_cause(group) from group


def refuse_open_doors(settings: Settings) -> None:
    """Beyond loopback anyone could write events and read jobs, unless tokens say who may."""
    if settings.tokens_file or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise SettingsError(
        f"FABMON_HOST: {settings.host} is reachable from other machines; "
        "set FABMON_TOKENS_FILE (`fabmon token new` makes it), listen on 127.0.0.1, "
        "or say --allow-anonymous if everyone there may write and read"
    )


def first_cause(error: BaseException) -> BaseException:
    """What started it, out of the groups that task groups wrap around it."""
    while isinstance(error, BaseExceptionGroup):
        ours = [each for each in error.exceptions if isinstance(each, FabmonError)]
        error = ours[0] if ours else error.exceptions[0]
    return error


async def _serve(
    opened: AbstractAsyncContextManager[Role],
    settings: Settings,
    tls: "_Tls | None",
    listener: socket.socket,
    with_parent: bool,
) -> None:
    stop = _Stop()
    with _signals_to(stop), _parent_watched(stop, with_parent):
        try:
            async with opened as role:
                await _answer(role, settings, tls, listener, stop)
        except asyncio.CancelledError:
            if not stop.asked:
                raise
    log.info("role.stopped")


async def _answer(role: Role, settings: Settings, tls: "_Tls | None", listener: socket.socket, stop: "_Stop") -> None:
    # What exists now lives as long as the process; a batch makes some ten thousand objects that die together.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    context, renew = tls or (None, None)
    config = uvicorn.Config(
        role.app,
        http=limited(Limits(settings.head_max_bytes, settings.request_timeout_s, _connections(settings))),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # Whoever can set a header could choose his address (httpd/access.py looks at it).
        proxy_headers=False,
        ssl_context_factory=(lambda _config, _default: context) if context else None,
        timeout_keep_alive=max(1, round(settings.keep_alive_s)),
        timeout_graceful_shutdown=max(1, round(settings.stop_timeout_s)),
    )
    stop.server = _Server(config, role.stop_streams, renew)
    host, port = listener.getsockname()[:2]
    log.info("role.serving", url=f"{'https' if tls else 'http'}://{host}:{port}")
    if tls is None and not is_loopback(settings.host):
        log.warning("role.plain_http", host=host, action="tokens and events cross the network readable; see --tls-cert")
    await stop.server.serve([listener])


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, stop_streams: Callable[[], None], renew: Callable[[], None] | None
    ) -> None:
        super().__init__(config)
        self._stop_streams = stop_streams
        self._renew = renew

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % SWEEP_EVERY_TICKS == 0:
            sweep(self.server_state.connections)
            if self._renew is not None:
                self._renew()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop_streams()
        await super().shutdown(sockets)


class _Stop:
    """What a signal does: the first stops the role in order, also one that is still starting; the second ends it."""

    def __init__(self) -> None:
        self.asked = False
        self.server: _Server | None = None
        self._main = asyncio.current_task()

    def __call__(self) -> None:
        if self.asked:
            log.warning("role.killed", reason="second signal")
            sys.stderr.flush()
            signal.raise_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        self.asked = True
        if self.server is not None:
            log.info("role.stopping", action="finishing accepted requests")
            self.server.should_exit = True
        elif self._main is not None:
            log.info("role.stopping", action="closing what was opened")
            self._main.cancel()


@contextlib.contextmanager
def _signals_to(stop: _Stop) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        # No add_signal_handler there: the handler only sets a flag, which the server looks at ten times a second.
        before = {number: signal.signal(number, lambda *_: stop()) for number in numbers}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)
        return
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _parent_watched(stop: _Stop, wanted: bool) -> Iterator[None]:
    """Stop when standard input ends: the process that started this one is gone, however it went."""
    if not wanted or sys.platform == "win32":
        yield
        return
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(descriptor, 1024):
            loop.remove_reader(descriptor)
            if not stop.asked:
                stop()

    loop.add_reader(descriptor, readable)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises StartError that names the setting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartError(f"port {port} on {host}: {reason}; choose another with --port or FABMON_PORT") from None


_Tls = tuple[ssl.SSLContext, Callable[[], None]]


def _tls(settings: Settings) -> _Tls | None:
    if not (settings.tls_cert or settings.tls_key or settings.tls_client_ca):
        return None
    return renewed_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def _connections(settings: Settings) -> int:
    """As many as are wanted, or as the system's limit on open files leaves room for."""
    if sys.platform == "win32":
        return settings.max_connections
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + settings.max_connections // 8 + _OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = max(8, (soft - _OTHER_FILES) * 8 // 9)
    if most < settings.max_connections:
        log.warning("role.few_files", max_connections=most, action=f"open files are limited to {soft} (ulimit -n)")
    return min(most, settings.max_connections)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
