"""How much a spool may take, and what happens past that."""

from typing import Final, Literal

import msgspec

from fabmon.errors import SpoolFull
from fabmon.settings import SpoolSettings
from fabmon.spool.segment import HEADER_BYTES

USUAL_BYTES: Final = 1024  # of an event: with less room than that a spool is full
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

    def is_short_of(self, held: int, wanted: int) -> bool:
        """Whether dropping helps: *wanted* bytes have no room beside the *held* ones, and would have some alone."""
        return held + wanted > self.max_bytes >= wanted + HEADER_BYTES

    def room_beside(self, held: int, wanted: int, free: int | None) -> int:
        """What is left when *wanted* bytes come to the *held* ones, on a disk with *free*; raises SpoolFull."""
        if wanted + HEADER_BYTES > self.max_bytes:
            raise SpoolFull(f"{wanted} bytes do not fit into a spool of at most {self.max_bytes}")
        if held + wanted > self.max_bytes:
            raise SpoolFull(f"the spool holds {held} of at most {self.max_bytes} bytes")
        if free is None:
            return self.max_bytes - held - wanted
        if free - wanted < self.min_free_bytes:
            raise SpoolFull(f"the disk under the spool has {free} bytes left; {self.min_free_bytes} are kept free")
        return min(self.max_bytes - held, free - self.min_free_bytes) - wanted


def lack(limits: Limits, held: int, free: int) -> str | None:
    """Why an event of usual size would find no room beside the *held* bytes, on a disk with *free*; None when it does."""
    try:
        limits.room_beside(0 if limits.policy == "drop_oldest" else held, USUAL_BYTES, free)
    except SpoolFull as error:
        return str(error)
    return None


def limits_of(settings: SpoolSettings) -> Limits:
    """What the settings of a role say."""
    return Limits(
        settings.spool_max_bytes,
        "drop_oldest" if settings.spool_policy == "drop_oldest" else "reject",
        settings.spool_max_age_s,
        settings.spool_min_free_bytes,
    )
