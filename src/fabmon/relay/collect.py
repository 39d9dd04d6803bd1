"""The sidecar delivers what programs on its machine have left because it was away (unsent/): at its start and now and then.

Such a file names the URL that its program knew; ours are those by which this sidecar can be reached on its own machine.
The events are judged and handed on as if they had come by HTTP, except that nobody hears of a refusal but the log.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from fabmon.clock import now
from fabmon.errors import BadEvent, NotJson, Unavailable
from fabmon.logs import Log
from fabmon.metrics import EVENTS
from fabmon.tasks import beside
from fabmon.unsent import files
from fabmon.wire.event import Batch, Event, Sink, as_line, read_event

P = ParamSpec("P")
T = TypeVar("T")

log = Log("fabmon.relay")

LOOK_SECONDS: Final = 10.0
_BATCH_EVENTS: Final = 1_000


@asynccontextmanager
async def collect(
    directories: Collection[Path], addresses: Collection[str], sink: Sink, site_id: str | None
) -> AsyncIterator[None]:
    """Look into *directories* for files that are meant for one of *addresses* (short names)."""
    async with beside("collect", _look(directories, addresses, sink, site_id)):
        yield


async def _look(directories: Collection[Path], addresses: Collection[str], sink: Sink, site_id: str | None) -> None:
    troubled: set[tuple[Path, str]] = set()
    while True:
        for place in product(directories, addresses):
            try:
                await _collect(*place, sink, site_id)
                troubled.discard(place)
            except (Unavailable, OSError) as error:
                if place not in troubled:
                    log.warning("unsent.left", directory=str(place[0]), reason=str(error), action="trying again")
                troubled.add(place)
        await asyncio.sleep(LOOK_SECONDS)


async def _collect(directory: Path, address: str, sink: Sink, site_id: str | None) -> None:
    with files.claims(directory, address) as found:
        while (claimed := await _in_thread(next, found, None)) is not None:
            try:
                taken, refused = await _hand_over(claimed.lines, sink, site_id)
            except BaseException:
                with suppress(OSError):  # would hide that we are cancelled
                    files.release(claimed)
                raise
            await _in_thread(claimed.path.unlink, missing_ok=True)
            log.info("unsent.delivered", file=claimed.path.name, events=taken)
            if refused:
                log.warning(
                    "unsent.refused", file=claimed.path.name, events=len(refused), first=refused[0], action="gone"
                )


async def _hand_over(lines: Collection[bytes], sink: Sink, site_id: str | None) -> tuple[int, list[str]]:
    """How many were taken, and the codes of those that were refused. Raises Unavailable; to repeat it does no harm."""
    taken, refused = 0, []
    events: list[Event] = []
    raws: list[bytes] = []
    for number, line in enumerate(lines, 1):
        try:
            events.append(read_event(line, now=now(), site_id=site_id))
            raws.append(as_line(line))
        except (BadEvent, NotJson) as error:
            refused.append(error.code)
        if events and (len(events) == _BATCH_EVENTS or number == len(lines)):
            receipt = await sink(Batch(events, raws))
            taken += len(events) - len(receipt.rejected)
            refused += [why.code for why in receipt.rejected]
            EVENTS.labels("stored").inc(receipt.stored)
            EVENTS.labels("duplicate").inc(receipt.duplicates)
            EVENTS.labels("spooled").inc(receipt.spooled)
            events, raws = [], []
    EVENTS.labels("rejected").inc(len(refused))
    return taken, refused


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A disk may be slow. When we are cancelled it is waited for: what it does must not go on behind our back."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
