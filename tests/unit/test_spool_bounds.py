"""The spool's bounds, a full disk, clocks that jump, and whatever bytes lie in its directory."""

import os
import random
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from fabmon.clock import monotonic, now
from fabmon.errors import SpoolFull
from fabmon.spool import ages, writer
from fabmon.spool.dead import Letter
from fabmon.spool.limits import Limits
from fabmon.spool.look import check, look
from fabmon.spool.segment import VERSION, Damage
from fabmon.spool.spool import Spool, open_spool
from tests.fixtures.disk import mounted_disk
from tests.unit.test_spool import LIMIT, balanced, contents, raws

FIXTURES = Path(__file__).parents[1] / "fixtures"
SMALL = Limits(LIMIT, segment_bytes=100)


def on_disk(directory: Path) -> int:
    """The size of all segments, with what is blank in the newest."""
    return sum(path.stat().st_size for path in directory.glob("*.segment"))


async def filled(directory: Path) -> None:
    """Thirty events in several segments, the first five delivered."""
    async with open_spool(directory, SMALL) as spool:
        for number in range(10):
            await spool.append(raws(3, 3 * number))
        await spool.acknowledge(5)


@pytest.mark.parametrize(("version", "delivered", "dead"), [(1, 5, 0), (2, 4, 1)])
async def test_an_older_version_is_continued(tmp_path: Path, version: int, delivered: int, dead: int) -> None:
    directory = tmp_path / "spool"
    shutil.copytree(FIXTURES / f"spool-v{version}", directory)
    async with open_spool(directory, LIMIT) as spool:
        assert (spool.accepted, spool.pending, spool.dead_letters) == (20, 15, 1)
        assert (spool.books.delivered, spool.books.dead) == (delivered, dead)
        records = await spool.read()
        assert [record.seq for record in records] == list(range(6, 21))
        await spool.append(raws(1))
        await spool.acknowledge(20)
        assert [record.seq for record in await spool.read()] == [21]
    async with open_spool(directory, LIMIT) as spool:
        assert (spool.books.delivered, spool.pending, balanced(spool)) == (delivered + 15, 1, True)
        assert not (directory / "set-aside").exists()


async def test_drop_oldest_makes_room_and_counts_what_it_drops(tmp_path: Path) -> None:
    async with open_spool(tmp_path, Limits(2000, "drop_oldest")) as spool:
        for number in range(500):
            await spool.append(raws(1, number))
            assert spool.size_bytes <= on_disk(tmp_path) <= 2000
        left = await contents(spool)
        assert left == raws(len(left), 500 - len(left))
        assert spool.books.dropped == {"full": 500 - len(left)}
        with pytest.raises(SpoolFull):
            await spool.append([b"x" * 3000])
    async with open_spool(tmp_path, Limits(2000, "drop_oldest")) as spool:
        assert (await contents(spool), balanced(spool)) == (left, True)


async def test_events_older_than_the_age_bound_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = monotonic()
    async with open_spool(tmp_path, Limits(LIMIT, max_age_seconds=100)) as spool:
        await spool.append(raws(3))
        monkeypatch.setattr(ages, "monotonic", lambda: at + 80)
        await spool.append(raws(2, 3))
        assert spool.oldest_pending_age() == pytest.approx(80, abs=5)
        monkeypatch.setattr(ages, "monotonic", lambda: at + 120)
        assert await contents(spool) == raws(2, 3)
        assert (spool.books.dropped, balanced(spool)) == ({"age": 3}, True)
        monkeypatch.setattr(ages, "monotonic", lambda: at + 300)
        assert (await contents(spool), spool.books.dropped) == ([], {"age": 5})


async def test_a_clock_that_jumps_a_day_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(LIMIT, max_age_seconds=3600)
    for days in (1, -1):
        directory = tmp_path / str(days)
        async with open_spool(directory, limits) as spool:
            await spool.append(raws(2))
            with monkeypatch.context() as patch:
                for module in (ages, writer):
                    patch.setattr(module, "now", lambda days=days: now() + timedelta(days=days))
                await spool.append(raws(2, 2))
                assert (spool.oldest_pending_age() or 0) < 5
                assert await contents(spool) == raws(4)
    async with open_spool(tmp_path / "-1", limits) as spool:
        assert await contents(spool) == raws(4)


async def test_the_disk_is_left_its_rest(tmp_path: Path) -> None:
    async with open_spool(tmp_path, Limits(LIMIT, min_free_bytes=1 << 60)) as spool:
        with pytest.raises(SpoolFull, match="kept free"):
            await spool.append(raws(1))


async def test_a_missing_segment_is_counted_and_a_doubled_one_delivered_once(tmp_path: Path) -> None:
    await filled(tmp_path)
    segments = sorted(tmp_path.glob("*.segment"))
    lost = [line.split(b" ", 2)[2] for line in segments[2].read_bytes().splitlines()[1:]]
    segments[2].unlink()
    shutil.copy(segments[3], tmp_path / "00000000000000000100.segment")
    async with open_spool(tmp_path, SMALL) as spool:
        expected = [raw for raw in raws(25, 5) if raw not in lost]
        assert await contents(spool) == expected
        await spool.acknowledge(spool.last_seq)
        assert (spool.books.set_aside, balanced(spool), spool.pending) == (len(lost), True, 0)
    assert len(list((tmp_path / "set-aside").iterdir())) == 1


async def test_a_segment_with_another_name_is_read_in_its_place(tmp_path: Path) -> None:
    await filled(tmp_path)
    first = min(tmp_path.glob("*.segment"))
    first.rename(tmp_path / "00000000000000000500.segment")
    async with open_spool(tmp_path, SMALL) as spool:
        assert await contents(spool) == raws(25, 5)


@pytest.mark.parametrize(
    "line", [b"fabmon-spool 3 9 1795579984\n", b"fabmon-spool 3 951 1795579984\n", b"fabmon-spool 8 0 1\n"]
)
async def test_a_wrong_first_line_costs_nothing_and_is_found(tmp_path: Path, line: bytes) -> None:
    await filled(tmp_path)
    first = min(tmp_path.glob("*.segment"))
    _, rest = first.read_bytes().split(b"\n", 1)
    first.write_bytes(line + rest)
    found: list[Damage] = []
    assert (check(look(tmp_path), found.append).missing, [each.file for each in found]) == (0, [first.name])
    async with open_spool(tmp_path, SMALL) as spool:
        assert (spool.accepted, await contents(spool)) == (30, raws(25, 5))
        await spool.acknowledge(30)
        assert (spool.books.set_aside, balanced(spool)) == (0, True)


async def test_lost_books_send_again_and_still_balance(tmp_path: Path) -> None:
    await filled(tmp_path)
    (tmp_path / "books").write_bytes(os.urandom(1024))
    async with open_spool(tmp_path, SMALL) as spool:
        assert (await contents(spool))[-25:] == raws(25, 5)
        assert balanced(spool)


@pytest.mark.parametrize("seed", range(25))
async def test_any_bytes_in_the_directory_it_starts_and_delivers_what_is_whole(tmp_path: Path, seed: int) -> None:
    await filled(tmp_path)
    rng = random.Random(seed)
    names = [path.name for path in tmp_path.iterdir() if path.name != "lock"]
    names += [
        "00000000000000000999.segment",
        "99999999999999999999.segment",
        "dead.jsonl",
        "acknowledged",
        "x",
        "books.new",
    ]
    touched = set()
    for name in rng.sample(names, 4):
        path = tmp_path / name
        touched.add(name)
        kind = rng.randrange(6)
        content = path.read_bytes() if path.exists() else b""
        path.unlink(missing_ok=True)
        if kind == 0:
            path.mkdir()
        elif kind == 1:
            path.write_bytes(rng.randbytes(rng.randrange(200_000)))
        elif kind == 2:
            path.write_bytes(content.replace(b"fabmon-spool %d" % VERSION, b"fabmon-spool 9"))
        elif kind == 3:
            path.write_bytes(content[: rng.randrange(len(content) + 1)])
        elif kind == 4:
            path.symlink_to(tmp_path / "nowhere")
        elif hasattr(os, "mkfifo"):
            os.mkfifo(path)
    untouched = [path for path in tmp_path.glob("*.segment") if path.name not in touched]
    begun = time.monotonic()
    async with open_spool(tmp_path, SMALL) as spool:
        assert time.monotonic() - begun < 2
        left = set(await contents(spool))
        whole = {raw for path in untouched for raw in raws(30) if raw + b"\n" in path.read_bytes()}
        delivered_before = set(raws(5))
        assert whole - delivered_before <= left
        await spool.append([b'{"n":"new"}'])
        assert (await contents(spool))[-1] == b'{"n":"new"}'
        assert balanced(spool)
        await spool.acknowledge(spool.last_seq)
        assert (spool.pending, balanced(spool)) == (0, True)
    async with open_spool(tmp_path, SMALL) as spool:
        assert (spool.pending, balanced(spool)) == (0, True)


@pytest.mark.parametrize(
    "rest",
    [b"x\n" * 4_000_000, b"\n\nx\n" * 2_000_000, b"\0" * 8_000_000, b"\n5f3a9c01 2 {}\n" * 500_000],
    ids=["short", "line breaks", "zeros", "no checksum"],
)
async def test_a_segment_of_millions_of_bad_lines_delays_no_start(tmp_path: Path, rest: bytes) -> None:
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append(raws(1))
    with next(tmp_path.glob("*.segment")).open("ab") as file:
        file.write(rest)
    for number in range(1500):
        (tmp_path / f"{number + 10**9:020d}.segment").write_bytes(b"garbage")
    begun = time.process_time()  # our own work, whatever else the machine does
    async with open_spool(tmp_path, LIMIT) as spool:
        assert time.process_time() - begun < 2
        assert await contents(spool) == raws(1)
    assert len(list((tmp_path / "set-aside").iterdir())) == 1500


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", "1m") as place:
        yield place


async def test_a_full_disk_is_survived_drained_and_used_again(small_disk: Path) -> None:
    async with open_spool(small_disk / "spool", Limits(LIMIT, segment_bytes=100_000)) as spool:
        kept = await _fill(spool)
        assert 300 < len(kept) < 1100
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
            while True:
                file.write(b"x" * 4096)
        assert await contents(spool) == kept
        # Draining needs no free space, and makes some.
        await spool.acknowledge(100)
        assert (spool.books.acknowledged, balanced(spool)) == (100, True)
        ballast.unlink()
        await spool.acknowledge(spool.last_seq)
        assert len(await _fill(spool)) > 300
    async with open_spool(small_disk / "spool", LIMIT) as spool:
        assert balanced(spool)
        assert spool.books.delivered == len(kept)


async def test_a_refused_event_on_a_full_disk_stops_none_behind_it(small_disk: Path) -> None:
    directory = small_disk / "spool"
    limits = Limits(LIMIT, segment_bytes=100_000)
    async with open_spool(directory, limits) as spool:
        kept = await _fill(spool)
        with (small_disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
            while True:
                file.write(b"x" * 4096)
        records = await spool.read(10)
        letter = Letter(records[0], "wrong_site", "", 207, 1, now(), now())
        await spool.acknowledge(10, [letter])
        assert (spool.books.delivered, spool.books.dead, spool.books.set_aside, balanced(spool)) == (9, 0, 1, True)
    # What is to be kept is known after a restart, too.
    async with open_spool(directory, limits) as spool:
        assert await contents(spool) == kept[10:]
        await spool.acknowledge(len(kept) - 1)
        await spool.acknowledge(len(kept), [msgspec.structs.replace(letter, record=(await spool.read(1))[0])])
        assert (spool.books.dead, spool.books.set_aside, spool.pending, balanced(spool)) == (1, 1, 0, True)
    assert any(kept[0] in path.read_bytes() for path in (directory / "set-aside").iterdir())


async def _fill(spool: Spool) -> list[bytes]:
    """What was accepted until the disk was full."""
    kept = []
    with pytest.raises(SpoolFull, match="disk"):
        for number in range(5000):
            raw = b'{"n":%d,"pad":"%b"}' % (number, b"x" * 950)
            await spool.append([raw])
            kept.append(raw)
    return kept
