"""Looking into a spool's directory without touching it: a live one, or a copy."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from fabmon.clock import now
from fabmon.errors import StartError
from fabmon.spool.books import BOOKS, Books, read_books
from fabmon.spool.dead import letter_lines
from fabmon.spool.disk import Disk
from fabmon.spool.frame import Record
from fabmon.spool.identity import read_id
from fabmon.spool.letters import DEAD
from fabmon.spool.segment import HEADER_BYTES, Damage, first_seq_of, path_of, read_header, read_segment
from fabmon.spool.survey import ASIDE
from fabmon.wire.codec import decode_object

# Damage that is looked at once more, and how often at most in a segment.
_DOUBTFUL: Final = frozenset({"damaged", "torn", "no record"})
_MOST_DOUBTS: Final = 16
_LATER_SECONDS: Final = 0.2
_ELSEWHERE: Final = "; name the spool with --dir (`spool_dir` in /v1/healthz), or its FABMON_DATA_DIR"


class View(msgspec.Struct):
    """What was in the directory when it was looked at."""

    directory: Path
    id: str | None
    books: Books
    books_found: bool
    segments: list[int]
    bytes: int
    accepted: int
    dead_letters: int
    set_aside_files: list[str]
    oldest_segment_age_s: float | None

    @property
    def pending(self) -> int:
        return self.accepted - self.books.acknowledged


class Checked(msgspec.Struct):
    """The events that were pending, and the places where the spool's files are damaged."""

    whole: int = 0
    missing: int = 0
    damaged: int = 0


def look(directory: Path) -> View:
    """What is in *directory*; raises StartError when there is no spool."""
    disk = Disk()
    try:
        entries = disk.list(directory)
        stored, _, _ = read_books(disk, directory)
        dead_letters = sum(1 for _ in letter_lines(disk, directory))
    except FileNotFoundError:
        raise StartError(f"there is no {directory}{_ELSEWHERE}") from None
    except OSError as error:
        raise StartError(f"{error.filename or directory} cannot be read: {error.strerror}") from None
    sizes = {first: each.size for each in entries if each.is_file and (first := first_seq_of(each.name)) is not None}
    segments = sorted(sizes)
    if not segments and stored is None and read_id(directory) is None:
        raise StartError(f"{directory} holds no spool{_ELSEWHERE}")
    first = segments[0] if segments else 1
    books = stored or Books(first - 1, first - 1, 0, 0, 0, {"unknown": first - 1} if first > 1 else {})
    tail = segments[-1] - 1 if segments else 0
    for _, item in _items(directory, segments[-1]) if segments else ():
        if isinstance(item, Record):
            tail = max(tail, item.seq)
        elif item.what == "damaged":
            tail += 1
    last = max(books.last, books.acknowledged, tail)
    behind = [
        each for each, after in zip(segments, [*segments[1:], last + 1], strict=False) if after > books.acknowledged + 1
    ]
    age = None
    if behind and last > books.acknowledged:
        with suppress(OSError):
            header = read_header(disk, path_of(directory, behind[0]))
            age = None if header is None else max(0.0, now().timestamp() - header.begun_at)
    aside = directory / ASIDE
    return View(
        directory=directory,
        id=read_id(directory),
        books=books,
        books_found=stored is not None,
        segments=segments,
        bytes=sum(sizes.values()),
        accepted=last,
        dead_letters=dead_letters,
        set_aside_files=sorted(path.name for path in aside.iterdir()) if aside.is_dir() else [],
        oldest_segment_age_s=age,
    )


def pending(view: View) -> Iterator[Record]:
    """The events that have not found their end, oldest first."""
    last = view.books.acknowledged
    for _, item in contents(view):
        if isinstance(item, Record) and item.seq > last:
            last = item.seq
            yield item


def contents(view: View) -> Iterator[tuple[int, Record | Damage]]:
    """Everything that the segments hold, each with its segment's first sequence."""
    for first, bound in zip(view.segments, [*view.segments[1:], 10**19], strict=False):
        last = first - 1
        path = path_of(view.directory, first)
        with suppress(FileNotFoundError):
            header = read_header(Disk(), path)
            # An empty one has only just been begun.
            if (header is None or header.first_seq != first) and path.stat().st_size:
                yield first, Damage(path.name, 0, HEADER_BYTES, "damaged")
        for offset, item in _items(view.directory, first):
            if isinstance(item, Record) and not last < item.seq < bound:
                yield first, Damage(path.name, offset, len(item.raw), "out of place")
                continue
            if isinstance(item, Record):
                last = item.seq
            yield first, item


def check(view: View, tell: Callable[[Damage], None]) -> Checked:
    """Read every byte; *tell* hears of what is damaged. What is delivered while we look is not missed."""
    checked = Checked()
    for damage in _lasting(view.directory):
        checked.damaged += 1
        tell(damage)
    last = view.books.acknowledged
    gaps: list[tuple[int, int]] = []
    for _, item in contents(view):
        if isinstance(item, Damage):
            checked.damaged += 1
            tell(item)
        elif last < item.seq <= view.accepted:
            checked.whole += 1
            if item.seq > last + 1:
                gaps.append((last + 1, item.seq))
            last = item.seq
    gaps.append((last + 1, view.accepted + 1))
    stored, _, _ = read_books(Disk(), view.directory)
    ended = max(view.books.acknowledged, stored.acknowledged if stored else 0)
    checked.missing = sum(max(0, end - max(begin, ended + 1)) for begin, end in gaps)
    return checked


def _lasting(directory: Path) -> Iterator[Damage]:
    """What is damaged in the books and the dead letters, and is so a little later: a live spool may be writing there."""
    before = _beside_segments(directory)
    if before:
        time.sleep(_LATER_SECONDS)
        after = _beside_segments(directory)
        yield from (damage for damage in before if damage in after)


def _beside_segments(directory: Path) -> list[Damage]:
    try:
        _, _, is_spoiled = read_books(Disk(), directory)
        found = [Damage(BOOKS, 0, 0, "damaged")] if is_spoiled else []
        offset = 0
        with suppress(FileNotFoundError), Disk().open_read(directory / DEAD) as file:
            for line in file:
                if line != b"\n" and (not line.endswith(b"\n") or decode_object(line) is None):
                    found.append(Damage(DEAD, offset, len(line), "damaged"))
                offset += len(line)
    except OSError as error:
        raise StartError(f"{error.filename or directory} cannot be read: {error.strerror}") from None
    return found


def _items(directory: Path, first: int) -> Iterator[tuple[int, Record | Damage]]:
    path = path_of(directory, first)
    begin: int | None = 0
    seen = 0
    doubts = _MOST_DOUBTS
    doubtful: Damage | None = None
    # A live spool may have delivered and deleted it meanwhile.
    with suppress(FileNotFoundError):
        while begin is not None:
            items, begin = read_segment(Disk(), path, begin), None
            for behind, item in items:
                if isinstance(item, Damage) and item.what in _DOUBTFUL and item != doubtful and doubts:
                    # A live spool writes over what was blank, and we may have seen half of that: what is damaged stays.
                    doubtful, begin = item, seen
                    doubts -= 1
                    break
                seen = behind
                yield behind, item
