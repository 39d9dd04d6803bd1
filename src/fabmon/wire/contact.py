"""What a sidecar tells its site of itself: in three headers of each batch, and by itself when nothing is sent."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

ID_HEADER: Final = "x-fabmon-sidecar"
PENDING_HEADER: Final = "x-fabmon-pending"
AGE_HEADER: Final = "x-fabmon-oldest-age"

# Numbers that no clock and no disk reaches; what is beyond is a mistake, and would break the arithmetic of times.
Count = Annotated[int, Meta(ge=0, le=10**15)]
Age = Annotated[float, Meta(ge=0, le=10**10)]
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
