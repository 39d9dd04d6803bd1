"""How much a spool may take, and what happens past that."""

from typing import Final, Literal

import msgspec

from fabmon.settings import SpoolSettings

SEGMENT_BYTES: Final = 8 * 1024 * 1024

Policy = Literal["reject", "drop_oldest"]


class Limits(msgspec.Struct, frozen=True):
    """0 is no limit; *max_bytes* always is one."""

    max_bytes: int
    policy: Policy = "reject"
    max_age_seconds: float = 0.0
    min_free_bytes: int = 0
    segment_bytes: int = SEGMENT_BYTES

    @property
    def roll_at_bytes(self) -> int:
        """The size past which a segment is closed: several of them fit into the bound."""
        return max(1, min(self.segment_bytes, self.max_bytes // 8))


def limits_of(settings: SpoolSettings) -> Limits:
    """What the settings of a role say."""
    return Limits(
        settings.spool_max_bytes,
        "drop_oldest" if settings.spool_policy == "drop_oldest" else "reject",
        settings.spool_max_age_s,
        settings.spool_min_free_bytes,
    )
