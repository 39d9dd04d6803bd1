"""Random histories of the spool over a disk that forgets: nothing acknowledged is lost, nothing is invented, books balance.

`make soak` runs ten thousand of them; the suite a few hundred.
"""

import errno
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fabmon.clock import monotonic, now
from fabmon.errors import SpoolFailed, SpoolFull, StartError
from fabmon.spool import ages, writer
from fabmon.spool.ages import SEGMENT_SECONDS
from fabmon.spool.dead import Letter, read_letters
from fabmon.spool.files import SpoolFiles
from fabmon.spool.limits import Limits
from tests.fixtures.forgetful_disk import Crash, ForgetfulDisk

HERE = Path("spool")
# The call at which the disk fails or the power goes; past 12 the history goes on undisturbed.
CALL = st.integers(1, 30)
AGE_SECONDS = 100.0
LIMITS = [
    # Short segments are begun and closed often; in long ones records are written over what was blank.
    Limits(1 << 20, segment_bytes=120),
    Limits(1 << 20, segment_bytes=500),
    # Bounds that are reached: some ten events, a hundred seconds.
    Limits(800, "drop_oldest"),
    Limits(1 << 20, segment_bytes=300, max_age_seconds=AGE_SECONDS),
]


class Clock:
    """Ours, and how far it is ahead of the real one."""

    ahead_seconds = 0.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ages, "monotonic", lambda: monotonic() + Clock.ahead_seconds)
    for module in (ages, writer):
        monkeypatch.setattr(module, "now", lambda: now() + timedelta(seconds=Clock.ahead_seconds))


class History(RuleBasedStateMachine):
    """`kept` are events whose append returned, `tried` all others; `ended` those that an acknowledge was called for.

    `dead` were refused in one of those calls, `refused` in the last, and it returned.
    """

    @initialize(seed=st.integers(0, 2**32), limits=st.sampled_from(LIMITS))
    def start(self, seed: int, limits: Limits) -> None:
        self.limits = limits
        self.disk = ForgetfulDisk(seed)
        self.disk.clock = lambda: now().timestamp() + Clock.ahead_seconds
        self.kept_at: dict[bytes, float] = {}
        self.number = 0
        self.kept: dict[bytes, int] = {}
        self.tried: set[bytes] = set()
        self.ended: set[bytes] = set()
        self.dead: set[bytes] = set()
        self.refused: set[bytes] = set()
        self.read_all = True  # at each start
        self.seen: dict[int, bytes] = {}
        self.spool = SpoolFiles(HERE, self.limits, self.disk)

    @rule(count=st.integers(1, 4), crash=CALL, fail=CALL, eio=st.booleans(), power=st.booleans())
    def append(self, count: int, crash: int, fail: int, eio: bool, power: bool) -> None:
        raws = [b'{"n":%d}' % (self.number + place) for place in range(count)]
        self.number += count
        self.tried.update(raws)
        first = self.spool.accepted + 1

        def work() -> None:
            self.spool.append(raws)
            self.kept |= {raw: first + place for place, raw in enumerate(raws)}
            self.kept_at |= dict.fromkeys(raws, Clock.ahead_seconds)
            self.spool.make_blank()

        self._survives(work, crash, fail, eio, power)

    @rule(take=st.integers(1, 6), bad=st.booleans(), crash=CALL, fail=CALL, eio=st.booleans(), power=st.booleans())
    def deliver(self, take: int, bad: bool, crash: int, fail: int, eio: bool, power: bool) -> None:
        def work() -> None:
            records = self.spool.read(take, 1 << 20)
            if not records:
                return
            self.spool.read_ahead(take, 1 << 20)
            self._look(records)
            letters = [Letter(records[0], "x", "y", 422, 1, now(), now())] if bad else []
            self.ended |= {record.raw for record in records}
            bad_raws = {letter.record.raw for letter in letters}
            self.dead |= bad_raws
            self.refused -= {record.raw for record in records}
            self.spool.acknowledge(records[-1].seq, letters)
            self.refused |= bad_raws

        self._survives(work, crash, fail, eio, power)

    @rule(seconds=st.sampled_from([SEGMENT_SECONDS + 1, AGE_SECONDS + 1]))
    def time_passes(self, seconds: float) -> None:
        Clock.ahead_seconds += seconds

    @rule(how=st.sampled_from(["in order", "kill", "power"]), crash=st.integers(0, 20), fail=CALL, power=st.booleans())
    def restart(self, how: str, crash: int, fail: int, power: bool) -> None:
        if how == "in order":
            self.spool.close()
        self._gone(power=how == "power")
        self.disk.crash_at = self.disk.calls + crash if crash else 0
        self.disk.fail_at = {self.disk.calls + fail: errno.EIO} if fail <= 12 else {}
        failing = dict(self.disk.fail_at)
        self._open(power)
        self.read_all &= self.disk.calls < min(failing, default=10**9)

    @invariant()
    def books_balance(self) -> None:
        books = self.spool.books
        assert books.balanced or books.last < books.acknowledged
        ended = books.delivered + books.dead + books.set_aside + sum(books.dropped.values())
        assert self.spool.accepted == ended + self.spool.pending
        assert self.spool.pending >= 0
        # Only what no caller was told to be kept may be unreadable; of torn books and a torn file the reason is unknown.
        assert books.dropped.keys() <= {"unknown"} | self._bounds()
        # Or what was refused, and found no room among the dead letters. How many events are in a segment that could not be
        # read at a start nobody knows: as many as have room in it.
        unkept = len(self.tried) - len(self.kept) + len(self.dead)
        assert not self.read_all or books.set_aside + books.dropped.get("unknown", 0) <= unkept

    @invariant()
    def nothing_acknowledged_is_lost_and_nothing_is_invented(self) -> None:
        calls, self.disk.fail_at, self.disk.crash_at = self.disk.calls, {}, 0
        records = self.spool.read(10_000, 1 << 30)
        self.disk.calls = calls
        self._look(records)
        missing = self.kept.keys() - self.ended - {record.raw for record in records}
        # What a bound dropped is in the books, and was the oldest.
        assert len(missing) <= sum(self.spool.books.dropped.get(bound, 0) for bound in self._bounds())
        assert all(self.kept[raw] < record.seq for raw in missing for record in records[:1])
        if "age" in self._bounds():
            least = AGE_SECONDS - SEGMENT_SECONDS  # a crash may cost the time of a file's last change, not of its first
            assert all(Clock.ahead_seconds - self.kept_at[raw] > least for raw in missing)
        # Whatever was refused for good is among the dead letters, in a segment that is kept, or comes again.
        letters = [letter["event"]["n"] for letter in read_letters(self.disk, HERE)]
        assert self.spool.books.dead <= len(letters) == len(set(letters))
        if not self._bounds():
            everything = b"".join(self.disk.contents())
            assert all(raw in everything for raw in self.refused & self.kept.keys())

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self._gone(power=True)
            self._open(power=True)
            self.nothing_acknowledged_is_lost_and_nothing_is_invented()
            self.books_balance()

    def _bounds(self) -> set[str]:
        """For what events may be given up."""
        full = {"full"} if self.limits.policy == "drop_oldest" else set()
        return full | ({"age"} if self.limits.max_age_seconds else set())

    def _look(self, records: Any) -> None:
        for record in records:
            assert record.raw in self.tried
            if record.raw in self.kept:
                assert self.kept[record.raw] == record.seq
                assert self.seen.setdefault(record.seq, record.raw) == record.raw

    def _survives(self, work: Any, crash: int, fail: int, eio: bool, power: bool) -> bool:
        """Do *work* on a disk that may fail, or while power or process end; True when it came to its end."""
        calls = self.disk.calls
        self.disk.crash_at = calls + crash if crash <= 12 else 0
        self.disk.fail_at = {calls + fail: errno.EIO if eio else errno.ENOSPC} if fail <= 12 else {}
        try:
            work()
        except (SpoolFull, SpoolFailed):
            return False
        except Crash:
            self._gone(power)
            self._open(power)
            return False
        finally:
            self.disk.crash_at, self.disk.fail_at = 0, {}
        return True

    def _gone(self, power: bool) -> None:
        if power:
            self.disk.crash()
        else:
            self.disk.kill()

    def _open(self, power: bool) -> None:
        """A start that ends with an error, or never, is tried again."""
        try:
            self.spool = SpoolFiles(HERE, self.limits, self.disk)
        except (Crash, OSError, StartError):
            self._gone(power)
            self.spool = SpoolFiles(HERE, self.limits, self.disk)
        self.disk.crash_at, self.disk.fail_at = 0, {}


def test_random_histories_lose_nothing_invent_nothing_and_balance(soak: int) -> None:
    bounds = settings(
        max_examples=200 * soak,
        stateful_step_count=30,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(History, settings=bounds)
