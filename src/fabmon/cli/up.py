"""`fabmon up`: everything on one machine, for a first look or a small site.

Each role is a process of its own, as in production; this one starts them, starts again what dies, and stops them. They
stop by themselves when this process is gone, however it went.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from fabmon import logs
from fabmon.clock import monotonic
from fabmon.durable import lock_directory
from fabmon.errors import PeerUnavailable, SettingsError, StartError
from fabmon.logs import Log
from fabmon.peer.client import Peer, open_peer
from fabmon.run import first_cause
from fabmon.settings import SidecarSettings, load, refuse_unknown_names

log = Log("fabmon.up")

SITE: Final = "fab1"
# Addresses and places differ from role to role; one value for all three would be wrong for two.
_OURS: Final = [
    *("FABMON_HOST", "FABMON_PORT", "FABMON_SPOOL_DIR", "FABMON_SITE_ID", "FABMON_LOCAL_URL", "FABMON_SITES"),
    *("FABMON_DATABASE_URL", "FABMON_DATABASE_URL_FILE"),
    *("FABMON_TLS_CERT", "FABMON_TLS_KEY", "FABMON_TLS_CLIENT_CA"),
]
_READY_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 40.0
_RESTART_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0


class _Service(msgspec.Struct, frozen=True):
    name: str
    command: Sequence[str]
    port: int
    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def up(
    data_dir: Annotated[str | None, typer.Option(help="Where everything is kept; env: FABMON_DATA_DIR.")] = None,
    sidecar_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    local_port: Annotated[int, typer.Option(min=1, max=65535)] = 18000,
    central_port: Annotated[int, typer.Option(min=1, max=65535)] = 19000,
    demo: Annotated[bool, typer.Option("--demo", help="Add a simulated fab that keeps reporting.")] = False,
) -> None:
    """Start local, sidecar and central for site fab1 over the embedded PostgreSQL; Ctrl-C stops all of it."""
    refuse_unknown_names(os.environ)
    for name in _OURS:
        if name in os.environ:
            raise SettingsError(
                f"{name}: `fabmon up` chooses it itself; unset it, or start the roles with `fabmon serve`"
            )
    directory = load(SidecarSettings, os.environ, {"data_dir": data_dir}).data_path.absolute()
    logs.configure("up", "info")
    try:
        lock = lock_directory(directory)
    except OSError as error:
        raise StartError(f"FABMON_DATA_DIR: {directory} cannot be used: {error.strerror}") from None
    with lock:
        services = _services(directory, sidecar_port, local_port, central_port)
        for service in services:
            _must_be_free(service)
        try:
            asyncio.run(_run(services, _demo(sidecar_port) if demo else None))
        except BaseExceptionGroup as group:
            raise first_cause(group) from group


def _services(directory: Path, sidecar_port: int, local_port: int, central_port: int) -> list[_Service]:
    local_url = f"http://127.0.0.1:{local_port}"
    # Here one line a service is enough to see that all is well; what is not is said.
    shared = {"FABMON_LOG_LEVEL": "warning", **os.environ, "FABMON_DATA_DIR": str(directory)}
    ours = {"sidecar": {"FABMON_LOCAL_URL": local_url, "FABMON_SITE_ID": SITE}, "local": {"FABMON_SITE_ID": SITE}}
    ours["central"] = {"FABMON_SITES": f"{SITE}={local_url}"}
    ports = {"local": local_port, "sidecar": sidecar_port, "central": central_port}
    return [
        _Service(
            name,
            [sys.executable, "-m", "fabmon", "serve", "--role", name, "--port", str(port), "--with-parent"],
            port,
            {**shared, **ours[name]},
        )
        for name, port in ports.items()
    ]


def _must_be_free(service: _Service) -> None:
    """Another program on the port would answer in its place."""
    try:
        socket.create_server(("127.0.0.1", service.port)).close()
    except OSError as error:
        raise StartError(f"port {service.port} for {service.name} cannot be had: {error.strerror}") from None


def _demo(sidecar_port: int) -> _Service:
    command = [sys.executable, "-m", "fabmon.demo", "--url", f"http://127.0.0.1:{sidecar_port}", "--site", SITE]
    return _Service("demo", command, sidecar_port, dict(os.environ))


async def _run(services: Sequence[_Service], demo: _Service | None) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform != "win32":
            loop.add_signal_handler(number, stopping.set)
    running: dict[str, asyncio.subprocess.Process] = {}
    try:
        async with asyncio.TaskGroup() as tasks:
            stop = tasks.create_task(stopping.wait(), name="stop")
            # The site first: the others would say that it is away.
            for part in (services[:1], services[1:]):
                for service in part if not stopping.is_set() else ():
                    running[service.name] = await _spawn(service)
                for service in part if not stopping.is_set() else ():
                    await _until_ready(service, running[service.name], stopping)
                    if not stopping.is_set():
                        print(f"{service.name:8} {service.url}", flush=True)
            if demo is not None and not stopping.is_set():
                running[demo.name] = await _spawn(demo)
                print(f"{demo.name:8} a simulated fab reports to the sidecar", flush=True)
            if not stopping.is_set():
                print("ready", flush=True)
            watchers = [
                tasks.create_task(_keep(service, running), name=f"keep-{service.name}")
                for service in [*services, *([demo] if demo else [])]
                if service.name in running
            ]
            await stop
            for watcher in watchers:
                watcher.cancel()
    finally:
        await _stop_all(running)


async def _spawn(service: _Service) -> asyncio.subprocess.Process:
    """Start it in a session of its own, so that Ctrl-C reaches this process alone and the order of stopping is ours."""
    return await asyncio.create_subprocess_exec(
        *service.command,
        stdin=asyncio.subprocess.PIPE,
        env=dict(service.environment),
        start_new_session=True,
    )


async def _until_ready(service: _Service, process: asyncio.subprocess.Process, stopping: asyncio.Event) -> None:
    deadline = monotonic() + _READY_SECONDS
    async with open_peer(service.url) as peer:
        while not stopping.is_set():
            if process.returncode is not None:
                raise StartError(f"{service.name} ended with code {process.returncode}; what it said stands above")
            if await _is_ready(peer):
                return
            if monotonic() > deadline:
                raise StartError(f"{service.name} was not ready within {_READY_SECONDS:.0f} s")
            await asyncio.sleep(0.1)


async def _is_ready(peer: Peer) -> bool:
    try:
        return (await peer.get("/readyz", [], 2.0)).status == 200
    except PeerUnavailable:
        return False


async def _keep(service: _Service, running: dict[str, asyncio.subprocess.Process]) -> None:
    """Start the service again whenever it ends; less and less often one that ends as soon as it was started."""
    pause_seconds = _RESTART_SECONDS
    while True:
        begun = monotonic()
        code = await running[service.name].wait()
        if monotonic() - begun > _LONGEST_PAUSE_SECONDS:
            pause_seconds = _RESTART_SECONDS
        log.warning("service.ended", name=service.name, code=code, action="starting it again", in_seconds=pause_seconds)
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        running[service.name] = await _spawn(service)


async def _stop_all(running: Mapping[str, asyncio.subprocess.Process]) -> None:
    """Reporters first, the store last, so that what is under way still finds its way down."""
    for name in ("demo", "sidecar", "central", "local"):
        process = running.get(name)
        if process is None or process.returncode is not None:
            continue
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            log.error("service.killed", name=name, reason=f"did not stop within {_STOP_SECONDS:.0f} s")
            process.kill()
            await process.wait()
