"""How often each address failed, in bounded memory: a bucket that empties with time.

What it limits is noise, not guessing: 256 random bits are not guessed at any rate. A right token passes at any time, so
nobody who shares an address with a failing client is shut out by it.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final

from fabmon.clock import monotonic

AT_ONCE: Final = 20
PER_SECOND: Final = 5.0
MOST_ADDRESSES: Final = 4096


class Failures:
    def __init__(self) -> None:
        # Address -> level of its bucket, when that was, refusals that were not logged.
        self._buckets: OrderedDict[str, tuple[float, float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def count(self, address: str) -> tuple[bool, int]:
        """Count one failure of *address*; whether it is within the rate, and how many before it were not."""
        key = _network(address)
        at = monotonic()
        level, before, unsaid = self._buckets.pop(key, (0.0, at, 0))
        level = max(0.0, level - (at - before) * PER_SECOND)
        within = level + 1 <= AT_ONCE
        self._buckets[key] = (level + 1, at, 0) if within else (level, at, unsaid + 1)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return within, unsaid if within else unsaid + 1


def _network(address: str) -> str:
    """One customer has a whole /64 of IPv6 addresses."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address) and found.ipv4_mapped is None:
        return str(IPv6Address(int(found) >> 64 << 64))
    return str(found)
