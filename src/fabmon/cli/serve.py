"""`fabmon serve`: one role."""

import os
from enum import StrEnum
from typing import Annotated, Any

import typer

from fabmon import logs
from fabmon.settings import CentralSettings, LocalSettings, Settings, SidecarSettings, load


class RoleName(StrEnum):
    sidecar = "sidecar"
    local = "local"
    central = "central"


def serve(
    role: Annotated[RoleName, typer.Option(help="Which part of fabmon this process is.")],
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default: 8000, 18000, 19000 by role.")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Where embedded data and the spool live.")] = None,
    allow_anonymous: Annotated[
        bool | None, typer.Option("--allow-anonymous", help="Listen beyond loopback without tokens.")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(help="Certificate chain (PEM) to serve HTTPS with.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="Its key.")] = None,
    tls_client_ca: Annotated[str | None, typer.Option(help="Callers must present a certificate of this CA.")] = None,
    with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run one role until SIGTERM; everything else is set by FABMON_* variables (see `fabmon config`)."""
    flags = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "allow_anonymous": allow_anonymous,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
    }
    # Imported by the role that runs: other commands start sooner, and a sidecar holds less.
    if role is RoleName.sidecar:
        from fabmon.roles.sidecar import open_sidecar

        sidecar = load(SidecarSettings, os.environ, flags)
        _run(role, open_sidecar(sidecar), sidecar, sidecar.port, with_parent)
    elif role is RoleName.local:
        from fabmon.roles.local import open_local

        local = load(LocalSettings, os.environ, flags)
        _run(role, open_local(local), local, local.port, with_parent)
    else:
        from fabmon.roles.central import open_central

        central = load(CentralSettings, os.environ, flags)
        _run(role, open_central(central), central, central.port, with_parent)


def _run(role: str, opened: Any, settings: Settings, port: int, with_parent: bool) -> None:
    from fabmon.run import run_role
    from fabmon.spans import exporting

    logs.configure(role, settings.log_level, requests=settings.request_log)
    with exporting(role):
        run_role(opened, settings, port, with_parent=with_parent)
