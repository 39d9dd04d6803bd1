"""What a sidecar tells its site of itself: in headers of each batch, and by itself when nothing is sent."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

ID_HEADER: Final = "x-fabmon-sidecar"
PENDING_HEADER: Final = "x-fabmon-pending"
AGE_HEADER: Final = "x-fabmon-oldest-age"
# A word may be long on its way, and what its sidecar took meanwhile is not in it. So the site says its time with each
# answer, and a sidecar with each word when it was composed, in the site's time: what it heard last, and what has passed
# since.
CLOCK_HEADER: Final = "x-fabmon-clock"
SAID_AT_HEADER: Final = "x-fabmon-said-at"

# Numbers that no clock and no disk reaches; what is beyond is a mistake, and would break the arithmetic of times.
Count = Annotated[int, Meta(ge=0, le=10**15)]
Age = Annotated[float, Meta(ge=0, le=10**10)]
_LATEST_CLOCK: Final = 1e11  # some three thousand years
Text = Annotated[str, Meta(max_length=200, pattern=r"\A[^\x00]*\Z")]


class Contact(msgspec.Struct, frozen=True):
    """How many events a sidecar holds back and for how long the oldest has waited; `stopped`: it ended in order."""

    pending: Count
    oldest_pending_age_s: Age | None = None
    site_id: Text | None = None
    host: Text | None = None
    version: Text | None = None
    stopped: bool = False


CONTACT: Final = msgspec.json.Decoder(Contact)


def read_clock(text: str | None) -> float | None:
    """Seconds since 1970 as a header has them; None when it has none."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds <= _LATEST_CLOCK else None
