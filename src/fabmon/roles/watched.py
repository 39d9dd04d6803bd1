"""The sites of central while it runs: a sites file is read again when it changes, without a restart.

What is configured the same keeps its connections; what went is closed when the questions under way had their time. A file
that cannot be read changes nothing, and is said.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from fabmon.errors import SettingsError
from fabmon.logs import Log
from fabmon.peer.client import Peer, open_peer
from fabmon.peer.credentials import Credentials
from fabmon.roles.sites import Site, read_sites
from fabmon.settings import CentralSettings
from fabmon.watch import LOOK_SECONDS, Watch

log = Log("fabmon.central")

# No question lasts longer: the most that `deadline=` allows.
GRACE_SECONDS: Final = 60.0


@asynccontextmanager
async def open_sites(settings: CentralSettings) -> AsyncIterator[Mapping[str, Peer]]:
    """A peer per site, as the settings or the file say at the moment; raises SettingsError at the start only."""
    peers: dict[str, Peer] = {}
    opened: dict[str, tuple[Site, AsyncExitStack]] = {}
    path = Path(settings.sites) if settings.sites.endswith(".toml") else None
    try:
        watch = Watch([path] if path else [])
        await _change(read_sites(settings.sites), settings, peers, opened)
        async with asyncio.TaskGroup() as tasks:
            watching = [
                tasks.create_task(_watch(path, watch, settings, peers, opened, tasks), name="sites-watch")
                for path in ([path] if path else [])
            ]
            yield peers
            for task in watching:
                task.cancel()
    finally:
        for _, stack in opened.values():
            await stack.aclose()


async def _watch(
    path: Path,
    watch: Watch,
    settings: CentralSettings,
    peers: dict[str, Peer],
    opened: dict[str, tuple[Site, AsyncExitStack]],
    tasks: asyncio.TaskGroup,
) -> None:
    closing: set[asyncio.Task[None]] = set()
    try:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not watch.changed():
                continue
            try:
                gone = await _change(read_sites(settings.sites), settings, peers, opened)
            except SettingsError as error:
                log.error("sites.unusable", reason=str(error), action=f"keeping the {len(peers)} read before")
                continue
            log.info("sites.read", file=path, sites=",".join(peers))
            closing |= {tasks.create_task(_close_later(stack), name="sites-close") for stack in gone}
            closing -= {task for task in closing if task.done()}
    finally:
        for task in closing:
            task.cancel()


async def _change(
    sites: Mapping[str, Site],
    settings: CentralSettings,
    peers: dict[str, Peer],
    opened: dict[str, tuple[Site, AsyncExitStack]],
) -> list[AsyncExitStack]:
    """Make *peers* those of *sites*; returns what is to be closed. Raises SettingsError, and then nothing has changed."""
    fresh: dict[str, tuple[Site, AsyncExitStack, Peer]] = {}
    try:
        for name, site in sites.items():
            if name not in opened or opened[name][0] != site:
                stack = AsyncExitStack()
                fresh[name] = (site, stack, await stack.enter_async_context(_peer(site, settings)))
    except SettingsError:
        for _, stack, _ in fresh.values():
            await stack.aclose()
        raise
    gone = [opened[name][1] for name in opened if name not in sites or name in fresh]
    now = {name: fresh[name][2] if name in fresh else peers[name] for name in sites}
    opened_now = {name: fresh[name][:2] if name in fresh else opened[name] for name in sites}
    peers.clear()
    peers.update(now)
    opened.clear()
    opened.update(opened_now)
    return gone


async def _close_later(stack: AsyncExitStack) -> None:
    try:
        await asyncio.sleep(GRACE_SECONDS)
    finally:
        await stack.aclose()


def _peer(site: Site, settings: CentralSettings) -> AbstractAsyncContextManager[Peer]:
    """What the site's table leaves out is as for all sites."""
    certificate, key = (
        (site.client_cert, site.client_key) if site.client_cert else (settings.client_cert, settings.client_key)
    )
    token, file = (site.token, site.token_file) if site.token else (settings.token, settings.token_file)
    credentials = Credentials(token, file, ca=site.ca or settings.ca, certificate=certificate, key=key)
    return open_peer(site.url, credentials, site.deadline)
