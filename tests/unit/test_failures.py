"""The rate of failures by address, and its bound in memory."""

import pytest

from fabmon.httpd import failures
from fabmon.httpd.failures import AT_ONCE, MOST_ADDRESSES, PER_SECOND, Failures


def test_a_burst_passes_then_the_rate_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(failures, "monotonic", lambda: clock[0])
    counted = Failures()
    assert [counted.count("192.0.2.1")[0] for _ in range(AT_ONCE + 3)] == [True] * AT_ONCE + [False] * 3
    assert counted.count("192.0.2.2") == (True, 0)
    clock[0] += 1.01 / PER_SECOND
    assert counted.count("192.0.2.1") == (True, 3)  # three went by without a line
    assert counted.count("192.0.2.1") == (False, 1)


def test_one_network_of_ipv6_is_one_address() -> None:
    counted = Failures()
    for number in range(AT_ONCE):
        counted.count(f"2001:db8::{number:x}")
    assert counted.count("2001:db8::ffff")[0] is False
    assert counted.count("2001:db8:0:1::1")[0] is True


def test_memory_is_bounded_whoever_comes() -> None:
    counted = Failures()
    for number in range(MOST_ADDRESSES + 500):
        counted.count(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
    assert len(counted) == MOST_ADDRESSES
