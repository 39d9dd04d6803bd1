"""Reading what a peer says became of a batch; who cannot be understood has taken nothing."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from fabmon.errors import PeerUnavailable
from fabmon.wire.codec import decode_object
from fabmon.wire.event import Rejection

_ALL_REFUSED: Final = 422
RECEIPTS: Final = (200, 207, _ALL_REFUSED)
# What became of a batch, as the receipt of a site, or of another sidecar, says it.
_PARTS: Final = ("stored", "duplicates", "spooled", "forwarded")


def read_receipt(status: int, body: bytes, count: int) -> Sequence[Rejection] | None:
    """Which of *count* events were rejected; None when the answer is no receipt, or contradicts itself."""
    receipt = decode_object(body)
    if receipt is None or not isinstance(items := receipt.get("rejected"), list):
        return None
    parts = [part for name in _PARTS if isinstance(part := receipt.get(name), int)]
    is_whole = not parts or sum(parts) + len(items) == count
    if receipt.get("ok") is not (not items) or not is_whole or (status == _ALL_REFUSED and len(items) != count):
        return None
    return _rejections(items, count)


def _rejections(items: Sequence[Any], count: int) -> Sequence[Rejection]:
    if not items:
        return ()
    try:
        rejected = msgspec.convert(items, list[Rejection])
    except msgspec.ValidationError as error:
        raise PeerUnavailable(f"the answer is none of a fabmon: {error}") from error
    if any(not 0 <= each.index < count for each in rejected):
        raise PeerUnavailable("the answer rejects an event that was not sent")
    return rejected
