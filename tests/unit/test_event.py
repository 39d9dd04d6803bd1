"""The rule of 64 levels, where it is closest to what an event of few bytes can hold."""

import pytest

from fabmon.clock import now
from fabmon.errors import BadEvent
from fabmon.wire.event import read_event

# Nothing in it can be left out; an object more takes five bytes, and the first a comma.
SHORTEST = (
    b'{"idempotency_key":"00000000000000000000000000000000","site_id":"-","app":{"app_id":'
    b'"00000000000000000000000000000000","name":"-"},"entity":{"type":"job","id":"00000000000000000000000000000000"},'
    b'"event":{"kind":"error","at":"0001-01-02T00:00:00Z"@}}'
)


@pytest.mark.parametrize(("opening", "closing"), [(b'{"":', b"}"), (b"[", b"]")])
def test_64_levels_are_taken_and_65_are_not_however_short_they_are(opening: bytes, closing: bytes) -> None:
    def nested(levels: int) -> bytes:
        innermost = b"{}" if closing == b"}" else b"[]"
        inside = opening * (levels - 3) + innermost + closing * (levels - 3)
        return SHORTEST.replace(b"@", b',"":' + inside)

    assert read_event(nested(64), now=now()).site_id == "-"
    with pytest.raises(BadEvent, match="64 levels"):
        read_event(nested(65), now=now())
