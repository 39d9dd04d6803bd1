"""The time: one place, so that a test can set it."""

import time
from datetime import UTC, datetime


def now() -> datetime:
    """The wall clock in UTC: for what people read, never for measuring."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds that only grow: for deadlines and durations, whatever the wall clock does."""
    return time.monotonic()
