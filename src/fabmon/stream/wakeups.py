"""A commit wakes the follower here at once, and those of other processes over the same database soon after.

Commits are told together, and only while somebody listens; a process listens only while it has readers. What is lost on the
way (a connection, a crash) is found by the follower's poll.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fabmon.errors import StoreUnavailable
from fabmon.logs import Log
from fabmon.store.pool import Pool
from fabmon.store.wakeups import open_listener, tell_commit
from fabmon.tasks import beside

log = Log("fabmon.stream")

TELL_SECONDS: Final = 0.025
# Where nobody listened, so long nobody is told: a process that begins to listen polls meanwhile.
NOBODY_SECONDS: Final = 1.0
STAY_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 5.0


class Commits:
    """`wake` is set after a commit, here or elsewhere."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.untold = asyncio.Event()
        self.listener = 0  # the backend of our own, while there is one

    def here(self) -> None:
        self.wake.set()
        self.untold.set()


@asynccontextmanager
async def wake_one_another(url: str, pool: Pool, wanted: asyncio.Event, commits: Commits) -> AsyncIterator[None]:
    """Tell of commits here, and listen while *wanted*, as long as the context is open."""
    async with beside("stream-tell", _tell(pool, commits)), beside("stream-listen", _listen(url, wanted, commits)):
        yield


async def _tell(pool: Pool, commits: Commits) -> None:
    while True:
        await commits.untold.wait()
        commits.untold.clear()
        try:
            is_heard = await tell_commit(pool, commits.listener)
        except StoreUnavailable as error:
            log.debug("stream.untold", reason=str(error), action="other processes find it by their poll")
            is_heard = False
        await asyncio.sleep(TELL_SECONDS if is_heard else NOBODY_SECONDS)


async def _listen(url: str, wanted: asyncio.Event, commits: Commits) -> None:
    while True:
        await wanted.wait()
        try:
            async with open_listener(url) as listener:
                commits.listener = listener.pid
                while wanted.is_set():
                    if await listener.heard(STAY_SECONDS):
                        commits.wake.set()
        except StoreUnavailable as error:
            log.warning("stream.deaf", reason=str(error), action="polling for the commits of other processes")
            await asyncio.sleep(RETRY_SECONDS)
        finally:
            commits.listener = 0
