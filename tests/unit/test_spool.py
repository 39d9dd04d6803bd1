"""The spool on a real disk: what is acknowledged is there again, and damage costs only what was hit."""

import asyncio
import errno
import os
import random
from pathlib import Path
from typing import BinaryIO

import pytest

from fabmon.clock import now
from fabmon.errors import SpoolFailed, SpoolFull, StartError
from fabmon.spool.dead import Letter
from fabmon.spool.disk import Disk
from fabmon.spool.limits import Limits
from fabmon.spool.spool import Spool, open_spool

LIMIT = 64 * 1024 * 1024


def raws(count: int, begin: int = 0) -> list[bytes]:
    return [b'{"n":%d}' % n for n in range(begin, begin + count)]


async def contents(spool: Spool) -> list[bytes]:
    return [record.raw for record in await spool.read(max_events=100_000)]


async def at_rest(spool: Spool) -> None:
    """Behind what the thread does after its last answer."""
    await spool.look_at_dead_letters()


def balanced(spool: Spool) -> bool:
    books = spool.books
    ended = books.delivered + books.dead + books.set_aside + sum(books.dropped.values())
    return spool.accepted == ended + spool.pending and spool.pending >= 0


async def test_what_was_appended_is_there_after_a_restart_in_order(tmp_path: Path) -> None:
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append(raws(3))
        await asyncio.gather(*(spool.append(raws(2, 10 + 2 * n)) for n in range(20)))
        assert spool.pending == 43
    async with open_spool(tmp_path, LIMIT) as spool:
        assert spool.pending == 43
        assert (await contents(spool))[:3] == raws(3)
        assert sorted(await contents(spool)) == sorted(raws(3) + raws(40, 10))


async def test_acknowledged_events_do_not_come_again(tmp_path: Path) -> None:
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append(raws(10))
        await spool.acknowledge(4)
        assert await contents(spool) == raws(6, 4)
    async with open_spool(tmp_path, LIMIT) as spool:
        assert (spool.pending, await contents(spool)) == (6, raws(6, 4))
        await spool.acknowledge(10)
        await spool.append(raws(1, 99))
        assert await contents(spool) == raws(1, 99)
    async with open_spool(tmp_path, LIMIT) as spool:
        assert await contents(spool) == raws(1, 99)


async def test_an_error_of_ours_while_reading_ahead_is_raised_by_the_next_read(tmp_path: Path) -> None:
    class Unreadable(Disk):
        def open_read(self, path: Path) -> BinaryIO:
            if path == second:
                raise RuntimeError("an error of ours")
            return super().open_read(path)

    second: Path | None = None
    async with open_spool(tmp_path, Limits(LIMIT, segment_bytes=20), Unreadable()) as spool:
        for n in range(2):
            await spool.append(raws(2, 2 * n))
        _, second = sorted(tmp_path.glob("*.segment"))
        assert len(await spool.read(max_events=2)) == 2
        with pytest.raises(RuntimeError, match="of ours"):
            await spool.read(max_events=1)


async def test_delivered_segments_are_deleted(tmp_path: Path) -> None:
    async with open_spool(tmp_path, Limits(LIMIT, segment_bytes=100)) as spool:
        for n in range(20):
            await spool.append(raws(4, 4 * n))
        assert len(list(tmp_path.glob("*.segment"))) == 20
        await spool.acknowledge(41)
        assert await contents(spool) == raws(39, 41)
        assert len(list(tmp_path.glob("*.segment"))) == 10
        await spool.acknowledge(80)
        assert (spool.pending, spool.size_bytes, list(tmp_path.glob("*.segment"))) == (0, 0, [])


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    async with open_spool(tmp_path, LIMIT):
        with pytest.raises(StartError, match=f"process {os.getpid()}"):
            async with open_spool(tmp_path, LIMIT):
                pass


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "killed"])
async def test_every_damaged_byte_costs_at_most_the_record_it_hit(tmp_path: Path, is_sealed: bool) -> None:
    async with open_spool(tmp_path / "spool", LIMIT) as spool:
        await spool.append(raws(3))
        await spool.append(raws(2, 3))
        await at_rest(spool)
        segment = next((tmp_path / "spool").glob("*.segment"))
        whole = segment.read_bytes()
    if is_sealed:
        whole = segment.read_bytes()
    assert whole.endswith(b"}\n" if is_sealed else b" \n")
    chance = random.Random(len(whole))
    for place in range(len(whole)):
        for damaged in (
            whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :],
            whole[:place] + b"\0" + whole[place + 1 :],
            whole[:place] + b"\0" * (len(whole) - place),
            whole[:place],
            *(whole[:place] + bytes([other]) + whole[place + 1 :] for other in chance.sample(range(256), 3)),
        ):
            segment.write_bytes(damaged)
            # Up to where it is as it was, and from where it is so again.
            alike = next((at for at in range(place + 1, len(whole)) if damaged[at:] == whole[at:]), len(whole))
            untouched = [
                raw
                for raw, at in ((raw, whole.find(raw + b"\n")) for raw in raws(5))
                if at + len(raw) < place or whole.rfind(b"\n", 0, at) >= alike - 1
            ]
            assert len(untouched) >= 4 or alike == len(whole)
            async with open_spool(tmp_path / "spool", LIMIT) as spool:
                left = await contents(spool)
                assert set(untouched) <= set(left) <= set(raws(5)), (place, damaged)
                await spool.append([b'{"n":"new"}'])
                assert (await contents(spool))[-1] == b'{"n":"new"}'
                assert balanced(spool)
            for path in (tmp_path / "spool").glob("*"):
                if path.name not in ("lock", "id", "set-aside") and path != segment:
                    path.unlink()


async def test_the_bound_is_kept_and_what_is_refused_is_not_there(tmp_path: Path) -> None:
    async with open_spool(tmp_path, 2000) as spool:
        with pytest.raises(SpoolFull):
            for n in range(1000):
                await spool.append(raws(1, n))
        kept = await contents(spool)
        assert kept == raws(len(kept))
        assert spool.size_bytes <= 2000
        await spool.acknowledge(spool.last_seq)
        await spool.append(raws(1))


class Failing(Disk):
    """A real disk that fails where the test says."""

    def __init__(self) -> None:
        self.fsync_fails_with = 0
        self.read_fails = False
        self.fsynced: list[int] = []

    def fsync(self, descriptor: int) -> None:
        self.fsynced.append(os.fstat(descriptor).st_ino)
        if self.fsync_fails_with:
            raise OSError(self.fsync_fails_with, os.strerror(self.fsync_fails_with))
        super().fsync(descriptor)

    def open_read(self, path: Path) -> BinaryIO:
        if self.read_fails and path.suffix == ".segment":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().open_read(path)


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, SpoolFull), (errno.EIO, SpoolFailed)])
async def test_after_a_failed_fsync_the_segment_is_given_up(tmp_path: Path, code: int, error: type[Exception]) -> None:
    disk = Failing()
    async with open_spool(tmp_path, LIMIT, disk) as spool:
        await spool.append(raws(2))
        first = sorted(tmp_path.glob("*.segment"))
        await at_rest(spool)
        disk.fsync_fails_with = code
        with pytest.raises(error):
            await spool.append(raws(1, 2))
        failed_on, before = disk.fsynced[-1], len(disk.fsynced)
        disk.fsync_fails_with = 0
        assert await contents(spool) == raws(2)
        await spool.append(raws(1, 3))
        assert failed_on not in disk.fsynced[before:]
        assert await contents(spool) == [*raws(2), *raws(1, 3)]
        assert sorted(tmp_path.glob("*.segment"))[0] == first[0]
        assert len(list(tmp_path.glob("*.segment"))) == 2
    async with open_spool(tmp_path, LIMIT) as spool:
        assert await contents(spool) == [*raws(2), *raws(1, 3)]


async def test_a_segment_that_cannot_be_read_is_tried_again_then_set_aside(tmp_path: Path) -> None:
    disk = Failing()
    async with open_spool(tmp_path, Limits(LIMIT, segment_bytes=10), disk) as spool:
        await spool.append(raws(3))
        disk.read_fails = True
        for _ in range(4):
            with pytest.raises(SpoolFailed):
                await spool.read()
        disk.read_fails = False
        assert await contents(spool) == raws(3)
    async with open_spool(tmp_path, Limits(LIMIT, segment_bytes=10), disk) as spool:
        disk.read_fails = True
        for _ in range(4):
            with pytest.raises(SpoolFailed):
                await spool.read()
        assert await spool.read() == []
        assert (spool.books.set_aside, spool.pending, balanced(spool)) == (3, 0, True)
        kept = [path.read_bytes() for path in (tmp_path / "set-aside").iterdir()]
        assert len(kept) == 1
        assert raws(3)[1] in kept[0]


async def test_a_reader_that_finds_nothing_passes_over_no_event_that_came_meanwhile(tmp_path: Path) -> None:
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append(raws(3))
        next(tmp_path.glob("*.segment")).unlink()
        assert await spool.read() == []
        await spool.append(raws(1, 9))
        assert await contents(spool) == raws(1, 9)
        assert (spool.books.set_aside, balanced(spool)) == (3, True)


async def test_a_real_file_size_limit_is_survived(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append(raws(2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        try:
            with pytest.raises(SpoolFull):
                await spool.append([b"x" * 500])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await contents(spool) == raws(2)
        await spool.append(raws(1, 2))
        assert await contents(spool) == raws(3)


async def test_strange_files_in_the_directory_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "00000000000000000007.segment").write_bytes(os.urandom(5000))
    (tmp_path / "x.segment").write_bytes(b"y")
    (tmp_path / "acknowledged").write_bytes(b"\0" * 40)
    (tmp_path / "00000000000000000009.segment.new").mkdir()
    async with open_spool(tmp_path, LIMIT) as spool:
        assert await contents(spool) == []
        await spool.append(raws(2))
        assert await contents(spool) == raws(2)


async def test_dead_letters_are_kept_with_their_reason(tmp_path: Path) -> None:
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append(raws(2))
        records = await spool.read()
        letter = Letter(records[1], "wrong_site", "this is site fab1", 422, 3, now(), now())
        await spool.acknowledge(2, [letter])
        assert (spool.dead_letters, spool.books.dead, spool.books.delivered, spool.pending) == (1, 1, 1, 0)
    line = (tmp_path / "dead.jsonl").read_text()
    assert '"code":"wrong_site"' in line
    assert '"event":{"n":1}' in line
    assert '"attempts":3,"status":422' in line
    assert f"{now():%Y-%m-%d}" in line
    async with open_spool(tmp_path, LIMIT) as spool:
        assert spool.dead_letters == 1
