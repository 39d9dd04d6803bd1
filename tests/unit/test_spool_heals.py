"""What a disk refused once is done later: the spool comes back by itself, and the dead letters lose nothing."""

import asyncio
import errno
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from fabmon.cli import spool_send
from fabmon.cli.spool_send import drain, send_copy, send_letters
from fabmon.clock import monotonic, now
from fabmon.errors import SpoolFailed, SpoolFull, StartError
from fabmon.peer.client import open_peer
from fabmon.relay.replay import replay
from fabmon.relay.upstream import Upstream
from fabmon.spool import dead as dead_module
from fabmon.spool import spool as spool_module
from fabmon.spool.dead import DeadLetters, Letter, read_letters
from fabmon.spool.disk import Disk
from fabmon.spool.frame import Record
from fabmon.spool.identity import read_id
from fabmon.spool.limits import Limits
from fabmon.spool.look import look
from fabmon.spool.spool import open_spool
from tests.fixtures.disk import mounted_disk
from tests.fixtures.roles import eventually_async
from tests.fixtures.site import Answer, Event, open_site
from tests.unit.test_replay import poison
from tests.unit.test_spool import LIMIT, Failing, balanced, raws


class Stubborn(Disk):
    """Refuses to write in place, or to delete, while it is told to."""

    def __init__(self) -> None:
        self.refused: set[str] = set()

    def write_at(self, descriptor: int, block: bytes | memoryview, offset: int) -> None:
        self._check("write_at")
        super().write_at(descriptor, block, offset)

    def create(self, path: Path) -> int:
        self._check("create")
        return super().create(path)

    def unlink(self, path: Path) -> None:
        if path.suffix == ".segment":
            self._check("unlink")
        super().unlink(path)

    def _check(self, call: str) -> None:
        if call in self.refused:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


class Full(Disk):
    """Has no room for another file, or for more in the dead letters, while it is told so."""

    is_full = False

    def create(self, path: Path) -> int:
        self._check()
        return super().create(path)

    def open_append(self, path: Path) -> int:
        self._check()
        return super().open_append(path)

    def _check(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("refused", [{"write_at", "create"}, {"unlink"}], ids=["books", "delete"])
async def test_what_was_delivered_while_the_disk_failed_does_not_fill_the_spool(
    tmp_path: Path, refused: set[str]
) -> None:
    disk = Stubborn()
    async with (
        open_site() as site,
        open_peer(site.url) as peer,
        open_spool(tmp_path, Limits(10_000), disk) as spool,
    ):
        with pytest.raises(SpoolFull):
            while True:
                await spool.append([b'{"n":0,"pad":"%b"}' % (b"x" * 300)])
        disk.refused = refused
        async with replay(spool, peer.send_batch, Upstream(site.url), 1.0):
            await eventually_async(lambda: not spool.pending)
            with pytest.raises(SpoolFull):
                await spool.append([b'{"n":0,"pad":"%b"}' % (b"x" * 300)])
            disk.refused = set()
            await eventually_async(lambda: not spool.size_bytes)
        assert balanced(spool)
        await spool.append(raws(1))


async def test_a_dead_letter_of_an_earlier_life_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append([b'{"n":"old"}'])
        await spool.acknowledge(1, [Letter(record, "x", "", 422, 1, now(), now()) for record in await spool.read()])
    (tmp_path / "books").unlink()
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append([b'{"n":"new"}'])
        await spool.acknowledge(1, [Letter(record, "x", "", 422, 1, now(), now()) for record in await spool.read()])
    assert [letter["event"]["n"] for letter in read_letters(Disk(), tmp_path)] == ["old", "new"]


def test_a_letter_that_a_crash_left_unbooked_is_not_written_twice_behind_another(tmp_path: Path) -> None:
    letters = [Letter(Record(seq, b'{"n":%d}' % seq), "x", "", 422, 1, now(), now()) for seq in range(1, 6)]
    DeadLetters(Disk(), tmp_path, 0).add(letters[2:])
    after_the_crash = DeadLetters(Disk(), tmp_path, 0)
    for letter in (letters[0], letters[4], letters[4]):
        after_the_crash.add([letter])
    assert sorted(letter["seq"] for letter in read_letters(Disk(), tmp_path)) == [1, 3, 4, 5]
    assert after_the_crash.letters.look() == after_the_crash.letters.count == 4


def test_a_file_of_letters_without_end_is_written_again_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_module, "_UNBOOKED_BYTES", 500)
    monkeypatch.setattr(dead_module, "_BLOCK_BYTES", 700)
    letters = [Letter(Record(seq, b'{"n":%d}' % seq), "x", "", 422, 1, now(), now()) for seq in range(1, 101)]
    DeadLetters(Disk(), tmp_path, 0).add(letters)
    DeadLetters(Disk(), tmp_path, 99).add([letters[-1]])  # a crash left the last one unbooked
    assert [letter["seq"] for letter in read_letters(Disk(), tmp_path)] == list(range(1, 101))


async def test_a_directory_that_is_gone_is_said(tmp_path: Path) -> None:
    async with open_spool(tmp_path / "spool", LIMIT) as spool:
        shutil.rmtree(tmp_path / "spool")
        with pytest.raises(SpoolFailed, match="No such file"):
            await spool.look_at_dead_letters()
        async with asyncio.timeout(5):
            with pytest.raises(SpoolFailed):
                await spool.append(raws(1))


async def test_letters_that_a_site_took_before_it_failed_are_known() -> None:
    lines = [b'{"event":{"n":%d}}\n' % number for number in range(700)]
    taken: set[bytes] = set()
    async with open_site() as site:
        site.behave = lambda _: Answer(status=503 if len(site.batches) > 1 else 200)
        with pytest.raises(StartError, match="503"):
            await send_letters(lines, site.url, taken)
    assert taken == set(lines[:500])


async def test_replay_gets_past_what_is_refused_and_a_site_that_is_busy_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_send, "_GIVE_UP_SECONDS", 2.5)
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append([b'{"n":%d}' % number for number in range(50)])
    busy = iter([Answer(status=503, headers={"retry-after": "3"}, body=b"")])
    told: list[Mapping[str, int]] = []
    async with open_site() as site:

        def behave(events: list[Event]) -> Answer:
            is_refused = any(event["n"] == 7 for event in events)
            return next(busy, Answer(status=403, body=b"") if is_refused else Answer())

        site.behave = behave
        with pytest.raises(StartError, match="1 events were refused"):
            await drain(tmp_path, site.url, told.append)
        assert told == [{"delivered": 49, "dead_letters": 1, "set_aside": 0, "left": 0}]
        assert site.numbers == set(range(50)) - {7}


async def test_replay_sends_what_is_old_and_says_what_could_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that is to be rescued is not given up for the age bound of a sidecar."""
    monkeypatch.setenv("FABMON_SPOOL_MAX_AGE_S", "60")
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append([b'{"n":%d}' % number for number in range(10)])
    (segment,) = tmp_path.glob("*.segment")
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[0] = re.sub(rb"\d+\n$", b"1000000000\n", lines[0])
    lines[3] = lines[3].replace(b'"n"', b'"N"')
    segment.write_bytes(b"".join(lines))
    os.utime(segment, (1e9, 1e9))
    told: list[Mapping[str, int]] = []
    async with open_site() as site:
        with pytest.raises(StartError, match="1 could not be read"):
            await send_copy(look(tmp_path), site.url, told.append)
        with pytest.raises(StartError, match="1 events are set aside"):
            await drain(tmp_path, site.url, told.append)
        assert site.numbers == set(range(10)) - {2}
    assert told == [
        {"sent": 9, "refused": 0, "unreadable": 1},
        {"delivered": 9, "dead_letters": 0, "set_aside": 1, "left": 0},
    ]


async def test_replay_ends_when_the_site_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_send, "_GIVE_UP_SECONDS", 0.5)
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append(raws(3))
    async with open_site() as site:
        site.behave = lambda _: Answer(status=401, body=b"")
        with pytest.raises(StartError, match=r"3 events left: .*401"):
            await drain(tmp_path, site.url, None)


async def test_many_segments_with_a_refused_event_are_drained_on_a_full_disk(tmp_path: Path) -> None:
    """More than may be kept at once: fewer are refused at a time, and every event finds its end."""
    disk = Full()
    async with (
        open_site() as site,
        open_peer(site.url) as peer,
        open_spool(tmp_path, Limits(LIMIT, segment_bytes=1), disk) as spool,
    ):
        for number in range(40):
            await spool.append([b'{"n":%d}' % number])
        disk.is_full = True
        site.behave = poison(*range(0, 40, 3))
        async with replay(spool, peer.send_batch, Upstream(site.url), 1.0):
            await eventually_async(lambda: not spool.pending)
        assert (spool.books.dead, spool.books.delivered + spool.books.set_aside, balanced(spool)) == (0, 40, True)
        assert spool.books.set_aside == 14


async def test_dropping_while_the_disk_is_full_keeps_the_books(tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "disk", "1m") as place:
        limits = Limits(400_000, "drop_oldest", segment_bytes=40_000)
        raw = b'{"n":0,"pad":"%b"}' % (b"x" * 950)
        async with open_spool(place / "spool", limits) as spool:
            while spool.size_bytes < 398_000:
                await spool.append([raw])
            with (place / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
                while True:
                    file.write(b"x" * 4096)
            for _ in range(300):
                with suppress(SpoolFull):
                    await spool.append([raw] * 3)
                assert balanced(spool)
            before = spool.accepted, spool.books.dropped, spool.pending
            assert spool.books.dropped["full"] > 0
        async with open_spool(place / "spool", limits) as spool:
            assert ((spool.accepted, spool.books.dropped, spool.pending), balanced(spool)) == (before, True)
            assert len(await spool.read(10_000)) == spool.pending


async def test_a_spool_that_is_full_says_so_as_long_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_spool(tmp_path, 4000) as spool:
        assert spool.full() is None
        with pytest.raises(SpoolFull):
            while True:
                await spool.append([b"x" * 300])
        monkeypatch.setattr(spool_module, "monotonic", lambda: monotonic() + 31)
        assert "of at most 4000 bytes" in (spool.full() or "")
        await spool.acknowledge(spool.last_seq)
        assert spool.full() is None
        # What no spool of this bound could take says nothing of the next.
        with pytest.raises(SpoolFull, match="do not fit"):
            await spool.append([b"x" * 5000])
        assert spool.full() is None
    async with open_spool(tmp_path, Limits(LIMIT, min_free_bytes=1 << 60)) as spool:
        assert "kept free" in (spool.full() or "")


async def test_a_spool_whose_disk_failed_says_so_for_half_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Failing()
    async with open_spool(tmp_path, LIMIT, disk) as spool:
        disk.fsync_fails_with = errno.EIO
        with pytest.raises(SpoolFailed):
            await spool.append(raws(1))
        # While a site takes everything itself, nothing else would come to show that it is mended.
        assert "cannot be written" in (spool.full() or "")
        monkeypatch.setattr(spool_module, "monotonic", lambda: monotonic() + 31)
        assert spool.full() is None


async def test_an_id_that_found_no_room_is_kept_when_there_is_some(tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "disk", "64k") as disk:
        directory = disk / "spool"
        directory.mkdir()
        for name in ("lock", "books"):
            (directory / name).write_bytes(b"")
        with (disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        async with open_spool(directory, LIMIT) as spool:
            assert read_id(directory) is None
            (disk / "ballast").unlink()
            await spool.append(raws(1))
            await spool.append(raws(1, 1))  # the id is written behind the first
            assert read_id(directory) == spool.id
