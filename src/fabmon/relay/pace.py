"""How much replay sends at a time, and how long it waits after a failure."""

import random
from typing import Final

from fabmon.errors import FabmonError, Overloaded, PeerRefused, PeerUnavailable
from fabmon.peer.backoff import full_jitter

MOST_EVENTS: Final = 2000
# The probe that finds the other side back comes at the latest this long after it is.
PROBE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0
_FIRST_PATIENCE_SECONDS: Final = 2.0
_LONGEST_PATIENCE_SECONDS: Final = 30.0
# "I am there, and have too much to do": these get longer and longer pauses, the others a probe of one event a second.
_BUSY: Final = frozenset({429, 507})


class Pace:
    """After a failure one event goes ahead as a probe; what it opens is taken in growing steps."""

    def __init__(self) -> None:
        self.max_events = MOST_EVENTS
        self.patience_seconds = _LONGEST_PATIENCE_SECONDS
        self._delays = full_jitter(most_seconds=LONGEST_PAUSE_SECONDS)

    def delivered(self) -> None:
        if self.max_events == MOST_EVENTS:
            self._delays = full_jitter(most_seconds=LONGEST_PAUSE_SECONDS)
        self.max_events = min(self.max_events * 4, MOST_EVENTS)
        self.patience_seconds = _LONGEST_PATIENCE_SECONDS

    def doubt(self) -> None:
        """Somebody else found the other side away: begin with a probe, as after a failure."""
        if self.max_events > 1:
            self.max_events, self.patience_seconds = 1, _FIRST_PATIENCE_SECONDS

    def too_large(self, events: int) -> None:
        """The other side takes less than *events* at a time."""
        self.max_events = max(1, events // 2)

    def failed(self, error: FabmonError) -> float:
        """The seconds to wait before the probe, unless the other side asked for another time."""
        probing = self.max_events == 1
        self.max_events = 1
        # A probe that hangs must not hold up the next; one that is answered late, every time, must get its time.
        longer = self.patience_seconds * 2 if probing else _FIRST_PATIENCE_SECONDS
        self.patience_seconds = min(longer, _LONGEST_PATIENCE_SECONDS)
        if isinstance(error, Overloaded) or (isinstance(error, PeerUnavailable) and error.status in _BUSY):
            return next(self._delays)
        if isinstance(error, PeerRefused):
            return PROBE_SECONDS
        return random.uniform(PROBE_SECONDS / 4, PROBE_SECONDS)  # noqa: S311 - spread, not secrecy
