"""The sidecar and the files that jobs have left: which it takes, which not, and what it does when it cannot deliver."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fabmon.durable import open_plain
from fabmon.errors import SpoolFull
from fabmon.relay import collect as module
from fabmon.relay.collect import collect
from fabmon.unsent import files
from fabmon.unsent.files import keep
from fabmon.wire.event import Batch, Receipt
from tests.fixtures.roles import eventually_async
from tests.make import event_bytes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, owners and locks")


class Taker:
    """A sink that remembers, and refuses all while `full`."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.full = False
        self.asked = 0

    async def __call__(self, batch: Batch) -> Receipt:
        self.asked += 1
        if self.full:
            raise SpoolFull("full")
        self.batches.append(batch)
        return Receipt(spooled=len(batch.events))

    @property
    def lines(self) -> list[bytes]:
        return [raw for batch in self.batches for raw in batch.raws]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_files_of_its_addresses_are_delivered_in_batches_and_removed(tmp_path: Path) -> None:
    lines = [event_bytes(at=n) for n in range(1500)]
    keep(tmp_path, "abc-1", lines)
    keep(tmp_path, "def-1", lines[:2])
    keep(tmp_path, "other-1", lines[:3])
    taker = Taker()
    async with collect([tmp_path], ["abc", "def"], taker, "fab1"):
        await eventually_async(lambda: names(tmp_path) == ["other-1.jsonl"])
    assert sorted(taker.lines) == sorted([*lines, *lines[:2]])
    assert sorted(len(batch.events) for batch in taker.batches) == [2, 500, 1000]


async def test_what_breaks_a_rule_goes_and_harms_no_neighbour(tmp_path: Path) -> None:
    good = event_bytes()
    keep(tmp_path, "abc-1", [event_bytes(site="fab2"), good, b"no json", b""])
    taker = Taker()
    async with collect([tmp_path], ["abc"], taker, "fab1"):
        await eventually_async(lambda: not names(tmp_path))
    assert taker.lines == [good]


async def test_what_cannot_be_kept_now_is_left_and_taken_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    keep(tmp_path, "abc-1", [event_bytes()])
    taker = Taker()
    taker.full = True
    async with collect([tmp_path / "nowhere", tmp_path], ["abc"], taker, None):
        await eventually_async(lambda: taker.asked >= 2)
        assert len(names(tmp_path)) == 1
        taker.full = False
        await eventually_async(lambda: not names(tmp_path))
    assert len(taker.lines) == 1


async def test_a_file_that_fails_every_time_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    lines = [event_bytes(at=n) for n in range(5)]
    elsewhere = event_bytes()
    for n in (2, 0, 1, 3, 4):
        keep(tmp_path, f"abc-{n}", [lines[n]])
        os.utime(tmp_path / f"abc-{n}.jsonl", (n + 1, n + 1))
    keep(tmp_path, "def-1", [elsewhere])
    taken: list[bytes] = []
    tried: list[bytes] = []

    async def sink(batch: Batch) -> Receipt:
        tried.extend(batch.raws)
        if batch.raws[0] in lines[:2]:
            raise SpoolFull("too large, say")
        taken.extend(batch.raws)
        return Receipt(spooled=1)

    async with collect([tmp_path], ["abc", "def"], sink, None):
        await eventually_async(lambda: len(tried) >= 10)
    assert taken == [elsewhere, *lines[2:]]
    assert tried[:10] == [lines[0], elsewhere, *lines[1:], *lines[:2], *lines[:2]]
    ages = [path.stat().st_mtime for path in tmp_path.iterdir()]
    assert sorted(ages) == [1, 2]  # when there are too many it is still the oldest that go


def link(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


def hard_link(path: Path, elsewhere: Path) -> None:
    path.hardlink_to(elsewhere)


def too_large(path: Path, elsewhere: Path) -> None:
    path.write_bytes((event_bytes() + b"\n") * 20_000)


def of_a_stranger(path: Path, elsewhere: Path) -> None:
    path.write_bytes(event_bytes())
    os.chown(path, 54321, -1)


def a_pipe(path: Path, elsewhere: Path) -> None:
    os.mkfifo(path)


STRANGE = [link, hard_link, too_large, a_pipe]
if sys.platform != "win32" and os.geteuid() == 0:  # only root can give a file away
    STRANGE.append(of_a_stranger)


@pytest.mark.parametrize("make", STRANGE)
@pytest.mark.parametrize("name", ["abc-1.jsonl", "abc-1.jsonl.taken", "abc-1.run"])
async def test_nothing_but_plain_files_of_its_own_is_touched(
    tmp_path: Path, make: Callable[[Path, Path], None], name: str
) -> None:
    elsewhere = tmp_path / "secret"
    elsewhere.write_bytes(event_bytes() + b"\n")
    directory = tmp_path / "unsent"
    directory.mkdir()
    make(directory / name, elsewhere)
    keep(directory, "abc-2", [event_bytes()])
    taker = Taker()
    async with collect([directory], ["abc"], taker, None):
        await eventually_async(lambda: names(directory) == [name])
    assert len(taker.lines) == 1
    assert elsewhere.exists()


SPOILED = [
    "{}",
    "[]",
    "x",
    '{"site_id":1}',
    '{"site_id":1,"app":{},"entity":"x"}',
    '{"site_id":1,"app":{},"entity":{}}',
]
TOO_DEEP = '{"site_id":1,"app":' + 700 * "[" + 700 * "]" + ',"entity":{"id":1}}'


@pytest.mark.parametrize("mark", [*SPOILED, TOO_DEEP])
async def test_a_mark_that_is_none_goes_and_harms_no_neighbour(tmp_path: Path, mark: str) -> None:
    (tmp_path / "abc-1.run").write_text(mark + "\n")
    good = event_bytes()
    keep(tmp_path, "abc-2", [good])
    taker = Taker()
    async with collect([tmp_path], ["abc"], taker, "fab1"):
        await eventually_async(lambda: not names(tmp_path))
    assert taker.lines == [good]


async def test_what_a_writer_was_killed_over_goes_after_a_while(tmp_path: Path) -> None:
    for name, moment in (("abc-1.new", 1.0), ("abc-2.run.new", 1.0), ("abc-3.new", time.time()), ("abc.new", 1.0)):
        (tmp_path / name).write_bytes(b'{"torn')
        os.utime(tmp_path / name, (moment, moment))
    with files.claims(tmp_path, "abc") as found:
        assert list(found) == []
    assert names(tmp_path) == ["abc-3.new", "abc.new"]


async def test_two_sidecars_do_not_take_the_same_file(tmp_path: Path) -> None:
    keep(tmp_path, "abc-1", [event_bytes()])
    with files.claims(tmp_path, "abc") as found:
        assert len(next(found).lines) == 1
        with files.claims(tmp_path, "abc") as again:
            assert list(again) == []


async def test_it_stops_also_when_it_cannot_give_a_file_back(tmp_path: Path) -> None:
    keep(tmp_path, "abc-1", [event_bytes()])
    asked = asyncio.Event()

    async def never(_: Batch) -> Receipt:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.timeout(30), collect([tmp_path], ["abc"], never, None):
        await asked.wait()
        (taken,) = tmp_path.iterdir()
        taken.with_suffix("").mkdir()  # in the way of its old name
    assert taken.exists()


@pytest.mark.parametrize("make", [link, hard_link, a_pipe])
async def test_nothing_but_a_file_of_our_own_is_written(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    elsewhere = tmp_path / "secret"
    elsewhere.write_bytes(b"kept")
    make(tmp_path / "abc-1.jsonl.new", elsewhere)
    keep(tmp_path, "abc-1", [b"{}"])
    assert (elsewhere.read_bytes(), (tmp_path / "abc-1.jsonl").read_bytes()) == (b"kept", b"{}\n")


def test_what_cannot_be_removed_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILES_LIMIT", 2)
    (tmp_path / "somebody's").mkdir()
    os.utime(tmp_path / "somebody's", (1.0, 1.0))
    for n in range(3):
        keep(tmp_path, f"abc-{n}", [b"%d" % n])
    assert "abc-2.jsonl" in names(tmp_path)


@pytest.mark.timeout(30)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """One that took a plain file's place just before it was opened."""
    os.mkfifo(tmp_path / "pipe")
    os.close(open_plain(tmp_path / "pipe", os.O_RDONLY))


def test_the_oldest_go_also_when_they_were_tried_but_not_while_they_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FILES_LIMIT", 3)
    for n in range(3):
        keep(tmp_path, f"abc-{n}", [b"%d" % n])
        os.utime(tmp_path / f"abc-{n}.jsonl", (n + 1, n + 1))
    with files.claims(tmp_path, "abc") as found:
        files.release(next(found))
    keep(tmp_path, "abc-3", [b"3"])
    assert sorted(path.stat().st_mtime for path in tmp_path.iterdir())[:2] == [2, 3]  # to read one counts as a try
    with files.claims(tmp_path, "abc") as found:
        claimed = next(found)
        for n in (4, 5):
            keep(tmp_path, f"abc-{n}", [b"%d" % n])
        assert claimed.path.read_bytes() == b"1\n"
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"1\n", b"3\n", b"4\n", b"5\n"]
