"""A long outage: how old what waits is, by the second and then by the segment, and how many segments it makes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fabmon.clock import monotonic
from fabmon.spool import ages as ages_module
from fabmon.spool.disk import Disk, Entry
from fabmon.spool.files import SpoolFiles
from fabmon.spool.limits import Limits
from tests.unit.test_spool import LIMIT


class Clock:
    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def __call__(self) -> float:
        return monotonic() + self.ahead_seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(ages_module, "monotonic", clock)
    yield clock


class Untouched(Disk):
    """What is durable is not the question here, and a listing costs as much as there is in the directory."""

    listings = 0

    def list(self, directory: Path) -> list[Entry]:
        self.listings += 1
        return super().list(directory)

    def fsync(self, descriptor: int) -> None:
        pass

    def fsync_directory(self, path: Path) -> None:
        pass


def test_the_age_of_what_waits_is_known_to_a_second_and_in_a_long_outage_to_its_segment(
    tmp_path: Path, clock: Clock
) -> None:
    files = SpoolFiles(tmp_path, Limits(1 << 30), Untouched())
    seconds = 20_000
    for _ in range(seconds):
        clock.ahead_seconds += 1
        files.append([b"{}"])
    segments = [segment.first for segment in files._segments]
    longest = max(after - before for before, after in zip(segments, [*segments[1:], seconds], strict=True))
    assert 60 <= longest < 240
    for acknowledged in (0, 1, 100, 5_000, 9_999, 15_000, 17_000, 19_000, 19_998):
        files.read(1, 1)
        files.acknowledge(acknowledged)
        true_age = seconds - acknowledged - 1
        said = files.oldest_pending_age()
        assert said is not None
        assert -1.5 <= said - true_age <= (2.5 if true_age < 3600 else longest + 2.5), acknowledged


def test_a_trickle_makes_fewer_segments_the_longer_nobody_takes_it(tmp_path: Path, clock: Clock) -> None:
    disk = Untouched()
    files = SpoolFiles(tmp_path, Limits(LIMIT * 100), disk)
    begun_with = disk.listings
    for _ in range(10 * 24 * 60):
        clock.ahead_seconds += 61
        files.append([b"{}"])
    assert 1000 < len(files._segments) < 2000  # and not 14,400
    assert disk.listings == begun_with  # an event that begins a segment looks at no other


def test_a_newest_segment_without_end_delays_no_start_and_its_numbers_are_not_given_out_again(tmp_path: Path) -> None:
    SpoolFiles(tmp_path, Limits(LIMIT)).append([b"{}"])
    (segment,) = tmp_path.glob("*.segment")
    with segment.open("r+b") as file:
        file.truncate(3 << 30)  # nearly all of it a hole
    files = SpoolFiles(tmp_path, Limits(4 << 30))
    assert files.accepted > 3 << 24  # as many as may have been in it: it was not read to its end
    files.append([b'{"n":1}'])
    assert [record.seq for record in files.read(1, 1)] == [1]
