"""How far the answers are complete: every list says it."""

from datetime import datetime
from typing import Final

from fabmon.clock import monotonic
from fabmon.store.pool import Pool
from fabmon.store.sidecars import complete_until

KEPT_SECONDS: Final = 1.0


class Completeness:
    """`complete_until`, asked once a second at most; an older one promises less, never too much."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._until: datetime | None = None
        self._asked_at = -KEPT_SECONDS

    async def until(self) -> datetime | None:
        """Ask before the list is read: what it lacks is not older than this."""
        if monotonic() - self._asked_at >= KEPT_SECONDS:
            asked_at = monotonic()
            self._until = await complete_until(self._pool)
            self._asked_at = asked_at
        return self._until
