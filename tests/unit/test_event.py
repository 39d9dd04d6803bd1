"""The rule of 64 levels, where it is closest to what an event of few bytes can hold."""

import subprocess
import sys

import pytest

from fabmon.clock import now
from fabmon.errors import BadEvent
from fabmon.wire.codec import holds_more
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


def test_a_body_of_millions_of_nothings_is_refused_before_it_fills_the_memory() -> None:
    """16 KB of gzip: the objects that they would make take a gigabyte."""
    program = (
        "import resource\n"
        "from fabmon.clock import now\n"
        "from fabmon.errors import TooLarge\n"
        "from fabmon.wire.event import read_batch\n"
        "def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "ones = b'[' + b'1,' * 8_000_000 + b'1]'\n"
        "nested = b'[{\"event\":{\"metadata\":{\"a\":[' + b'{},' * 5_000_000 + b'{}]}}}]'\n"
        "before = used()\n"
        "try: read_batch(ones, now=now())\n"
        "except TooLarge: print('too many')\n"
        "print(read_batch(nested, now=now()).rejected[0].code, used() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    first, second = done.stdout.splitlines()
    code, more_megabytes = second.split()
    assert (first, code) == ("too many", "event_too_large")
    assert int(more_megabytes) < 100
    assert not holds_more(b"[" + b"1," * 9_999 + b"1]", 10_000)
    assert holds_more(b"[" + b"1," * 10_000 + b"1" * 3 + b',"' + b"," * 90_000 + b'"]', 10_000)
    assert not holds_more(b'["' + b"," * 200_000 + b'"]', 10_000)
