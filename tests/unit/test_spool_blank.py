"""What a segment keeps blank behind its records: within bounds, gone when it is closed, and never taken for an event."""

import asyncio
import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from fabmon.errors import SpoolFull
from fabmon.spool.disk import Disk
from fabmon.spool.frame import write_line
from fabmon.spool.limits import Limits
from fabmon.spool.look import check, look, pending
from fabmon.spool.spool import open_spool
from tests.unit.test_spool import LIMIT, at_rest, contents, raws
from tests.unit.test_spool_bounds import on_disk


async def test_a_segment_is_ahead_of_its_records_and_cut_when_it_is_closed(tmp_path: Path) -> None:
    sizes = []
    async with open_spool(tmp_path, LIMIT) as spool:
        for number in range(2000):
            await spool.append(raws(1, number))
            await at_rest(spool)
            sizes.append(on_disk(tmp_path))
            assert spool.size_bytes <= sizes[-1] <= 2 * spool.size_bytes
    # An append that leaves the size as it is needs no journal.
    assert len(set(sizes)) < 20
    assert on_disk(tmp_path) == spool.size_bytes


async def test_a_disk_without_room_for_a_blank_refuses_no_event(tmp_path: Path) -> None:
    class Full(Disk):
        def write_at(self, descriptor: int, block: bytes | memoryview, offset: int) -> None:
            if bytes(block).isspace():
                super().write_at(descriptor, block[:3], offset)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write_at(descriptor, block, offset)

    async with open_spool(tmp_path, LIMIT, Full()) as spool:
        for number in range(20):
            await spool.append(raws(1, number))
        assert await contents(spool) == raws(20)
        await at_rest(spool)
        assert spool.size_bytes == on_disk(tmp_path)
    async with open_spool(tmp_path, LIMIT) as spool:
        assert (await contents(spool), spool.books.set_aside) == (raws(20), 0)


async def test_a_write_that_was_cut_short_over_the_blank_is_no_event(tmp_path: Path) -> None:
    async with open_spool(tmp_path / "spool", LIMIT) as spool:
        for number in range(10):
            await spool.append(raws(1, number))
        await at_rest(spool)
        size = spool.size_bytes
        shutil.copytree(tmp_path / "spool", tmp_path / "killed")
    segment = next((tmp_path / "killed").glob("*.segment"))
    line = write_line(11, b'{"n":10}')
    for length in range(len(line) - 1):  # all but its line break is an event
        with segment.open("r+b") as file:
            file.seek(size)
            file.write(line[:length])
        assert (len(list(pending(look(tmp_path / "killed")))), look(tmp_path / "killed").accepted) == (10, 10)
        shutil.copytree(tmp_path / "killed", tmp_path / str(length))
        async with open_spool(tmp_path / str(length), LIMIT) as spool:
            assert (spool.accepted, await contents(spool)) == (10, raws(10))


async def test_who_looks_at_a_spool_that_is_written_sees_whole_events(tmp_path: Path) -> None:
    """What is half written or is delivered meanwhile is no damage, and not missing."""
    raw = b'{"pad":"%b"}' % (b"x" * 400)

    def look_on() -> tuple[int, list[object]]:
        looks, found = 0, list[object]()
        while not is_done.is_set():
            view = look(tmp_path)
            checked = check(view, found.append)
            found += [(view, checked)] if checked.missing else []
            looks += 1
        return looks, found

    is_done = threading.Event()
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append([raw])
        looking = asyncio.create_task(asyncio.to_thread(look_on))
        for number in range(600):
            await spool.append([raw] * 100)
            if number % 10 == 0:
                await spool.acknowledge(spool.last_seq - 500)
        is_done.set()
        looks, found = await looking
    assert (looks > 10, found) == (True, [])


async def test_what_is_blank_does_not_count_against_the_space_that_is_kept_free(tmp_path: Path) -> None:
    class Small(Disk):
        def free_bytes(self, directory: Path) -> int:
            return 60_000 - on_disk(directory)

    async with open_spool(tmp_path, Limits(LIMIT, min_free_bytes=20_000), Small()) as spool:
        with pytest.raises(SpoolFull, match="kept free"):
            for number in range(1000):
                await spool.append([b'{"n":%d,"pad":"%b"}' % (number, b"x" * 950)])
                await at_rest(spool)
                assert on_disk(tmp_path) <= 40_000
        assert spool.size_bytes > 38_000


async def test_large_groups_and_an_event_alone_get_no_blank(tmp_path: Path) -> None:
    async with open_spool(tmp_path, LIMIT) as spool:
        for number in range(8):
            await spool.append([b'{"n":%d}' % number] * (1 if number == 0 else 20_000))
            await at_rest(spool)
            assert on_disk(tmp_path) == spool.size_bytes


async def test_however_little_is_left_blank_it_is_no_damage(tmp_path: Path) -> None:
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append(raws(10))
    segment = next(tmp_path.glob("*.segment"))
    whole = segment.read_bytes()
    for blank in range(1, 40):
        segment.write_bytes(whole + b" " * (blank - 1) + b"\n")
        found: list[object] = []
        assert (check(look(tmp_path), found.append).whole, found) == (10, [])
        segment.write_bytes(whole + b" " * blank)  # half of one
        assert (check(look(tmp_path), found.append).whole, found) == (10, [])


async def test_a_power_cut_or_a_flipped_bit_in_the_blank_is_no_event(tmp_path: Path) -> None:
    async with open_spool(tmp_path / "spool", LIMIT) as spool:
        for number in range(10):
            await spool.append(raws(1, number))
        await at_rest(spool)
        shutil.copytree(tmp_path / "spool", tmp_path / "killed")
        size = spool.size_bytes
    segment = next((tmp_path / "killed").glob("*.segment"))
    whole = segment.read_bytes()
    blank = len(whole) - size
    for number, rest in enumerate((b" " * (blank - 2) + b"!\n", b"\0" * (blank - 1) + b"\n", b"!" + b" " * blank)):
        copy = shutil.copytree(tmp_path / "killed", tmp_path / str(number))
        (copy / segment.name).write_bytes(whole[:size] + rest)
        assert look(copy).accepted == 10
        async with open_spool(copy, LIMIT) as spool:
            assert (spool.accepted, await contents(spool)) == (10, raws(10))
