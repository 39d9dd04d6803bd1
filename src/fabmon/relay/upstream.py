"""What is known of the other side, the site or a `local`'s database: whether it takes events, and when it may be asked."""

import random
from typing import Final, Literal, get_args

import msgspec

from fabmon.clock import monotonic
from fabmon.errors import PeerRefused, PeerUnavailable
from fabmon.logs import Log

log = Log("fabmon.relay")

State = Literal["ok", "away", "refusing"]
Pause = Literal["away", "refusing", "held", "spool"]
PAUSES: Final[tuple[Pause, ...]] = get_args(Pause)


class Upstream(msgspec.Struct):
    """Whether the other side takes events: `away` may end by itself, `refusing` needs a person (a token, a wrong URL).

    `held` is why the backlog waits although the other side takes events: it refuses most of what waits. `stuck` is why the
    spool cannot give out what waits, or book what became of it.
    """

    name: str
    state: State = "ok"
    reason: str = ""
    held: str = ""
    stuck: str = ""
    since: float = msgspec.field(default_factory=monotonic)
    took_at: float = float("-inf")  # when it last took a fresh event
    took_asked_at: float = float("-inf")  # when it was sent the last of those that it took
    answered_at: float = float("-inf")  # when it last answered as it should, a fresh event or another
    failed_at: float = float("-inf")
    not_before: float = float("-inf")  # it asked to be left alone until then (Retry-After)

    @property
    def pause(self) -> Pause | None:
        """Why the backlog is not sent now."""
        if self.state != "ok":
            return self.state
        return "held" if self.held else "spool" if self.stuck else None

    @property
    def why(self) -> str:
        """The reason of `pause` in words; empty without one."""
        return self.reason or self.held or self.stuck

    def asked_to_wait_seconds(self) -> float:
        return max(0.0, self.not_before - monotonic())

    def is_back(self, asked_at: float) -> None:
        """What it was asked at *asked_at* it answered, and as it should; what failed since then counts for more."""
        self.answered_at = monotonic()
        if self.failed_at > asked_at:
            return
        if self.state != "ok":
            away_seconds = round(monotonic() - self.since, 1)
            # As loud as its loss: who hears of the one waits for the other.
            log.warning("upstream.back", upstream=self.name, away_seconds=away_seconds, action="sending what waits")
        self.not_before = float("-inf")
        self._become("ok", "")

    def took(self, asked_at: float) -> None:
        """It took a fresh event that it was sent at *asked_at*."""
        self.took_at = self.answered_at = monotonic()
        self.took_asked_at = max(self.took_asked_at, asked_at)

    def failed(self, error: Exception) -> None:
        state: State = "refusing" if isinstance(error, PeerRefused) else "away"
        if self.state != state:
            log.warning("upstream.lost", upstream=self.name, state=state, reason=str(error), action="spooling")
        if isinstance(error, PeerUnavailable) and error.asked_to_wait_seconds:
            wait_seconds = error.asked_to_wait_seconds * random.uniform(1.0, 1.1)  # noqa: S311 - spread, not secrecy
            self.not_before = max(self.not_before, monotonic() + wait_seconds)
        self.failed_at = monotonic()
        self._become(state, str(error))

    def _become(self, state: State, reason: str) -> None:
        if self.state != state:
            self.since = monotonic()
        self.state, self.reason = state, reason
