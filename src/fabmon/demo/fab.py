"""The simulated fab: jobs that start as time goes by, each with all its events. Pure: no clock, no network.

Two things seed it. The *seed* alone gives the course of the shift: which lots, tools, failures and durations, all
relative to the start. Seed, site and *start* together give the ids and idempotency keys: the same call gives the same
events, and a second start on the same database makes new jobs instead of repeating the old ones.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID

from fabmon.demo.plant import (
    CANCEL_REASONS,
    PRODUCTS,
    PROGRAMS,
    ROUTE,
    SURVIVED,
    TOOLS,
    WAFER_COUNTS,
    Program,
    Range,
    Step,
)
from fabmon.wire.event import App, Entity, Event, Happening, Kind, Status

HISTORY: Final = timedelta(hours=4)
WARM_UP: Final = timedelta(minutes=4)
HISTORY_JOBS: Final = 50
SECONDS_BETWEEN_JOBS: Final = 4.0

LOTS: Final = 60
FIRST_LOT: Final = 4690
FAILED_SHARE: Final = 0.035
CANCELED_SHARE: Final = 0.02
SURVIVED_SHARE: Final = 0.02


class Job(NamedTuple):
    """All events of one job and its subjobs, in the order in which they happen."""

    starts_at: datetime
    events: Sequence[Event]


class _Lot:
    def __init__(self, number: int, chance: Random) -> None:
        self.name = f"LOT-{number}"
        self.product = chance.choice(PRODUCTS)
        self.wafers = chance.choice(WAFER_COUNTS)
        self.step = chance.randrange(len(ROUTE))


def jobs(*, seed: int, site_id: str, start: datetime, speed: float = 1.0) -> Iterator[Job]:
    """The jobs of the last four hours before *start*, and then on without end, by their start.

    *speed* is how many jobs start, not how long they take: at 2.0 the fab is twice as busy, and a recipe still takes
    its minutes.
    """
    fab = _Fab(seed, site_id, start)
    for number, at in enumerate(_starts(Random(f"{seed} starts"), start, speed)):
        yield fab.job(number, at)


def _starts(chance: Random, start: datetime, speed: float) -> Iterator[datetime]:
    """A quiet history, then the usual traffic from shortly before *start*: jobs are running from the first second."""
    quiet = (HISTORY - WARM_UP).total_seconds()
    for offset in sorted(chance.uniform(0.0, quiet) for _ in range(HISTORY_JOBS)):
        yield start - HISTORY + timedelta(seconds=offset)
    at = start - WARM_UP
    while True:
        busy = speed if at >= start else min(speed, 1.0)
        at += timedelta(seconds=chance.expovariate(busy / SECONDS_BETWEEN_JOBS))
        yield at


class _Fab:
    """Where the lots stand on their route, and until when lots and tools are taken."""

    def __init__(self, seed: int, site_id: str, start: datetime) -> None:
        self._seed = seed
        self._site_id = site_id
        self._start = start
        chance = Random(f"{seed} lots")
        self._lots = [_Lot(FIRST_LOT + number, chance) for number in range(LOTS)]
        self._taken_until: dict[str, datetime] = {}

    def job(self, number: int, at: datetime) -> Job:
        chance = Random(f"{self._seed} job {number}")
        ids = Random(f"{self._seed} {self._site_id} {self._start.isoformat()} job {number}")
        program = chance.choices(PROGRAMS, [program.weight for program in PROGRAMS])[0]
        lot = self._free_lot(at, chance)
        step = ROUTE[lot.step]
        tool = self._free(TOOLS[program.area or step.area], at, chance)
        paper = _Paper(ids, self._site_id, program.app)
        facts = {"lot": lot.name, "product": lot.product, "recipe": step.recipe, "tool": tool}
        ended_at = _Run(program, step, lot, facts, chance, paper).play(at)
        if program.metrics is None:
            self._taken_until[tool] = self._taken_until[lot.name] = ended_at
            lot.step = (lot.step + 1) % len(ROUTE)
        return Job(at, sorted(paper.events, key=lambda event: event.event.at))

    def _free_lot(self, at: datetime, chance: Random) -> _Lot:
        by_name = {lot.name: lot for lot in self._lots}
        return by_name[self._free(tuple(by_name), at, chance)]

    def _free(self, names: Sequence[str], at: datetime, chance: Random) -> str:
        """One that is free; when none is, the one that will be free first."""
        free = [name for name in names if self._taken_until.get(name, at) <= at]
        return chance.choice(free) if free else min(names, key=self._taken_until.__getitem__)


class _Paper:
    """Writes down what happens, each event with an id of its own."""

    def __init__(self, ids: Random, site_id: str, app: App) -> None:
        self._ids = ids
        self._site_id = site_id
        self._app = app
        self.events: list[Event] = []

    def new_id(self) -> UUID:
        return UUID(int=self._ids.getrandbits(128), version=4)

    def write(
        self,
        entity: Entity,
        kind: Kind,
        at: datetime,
        metrics: dict[str, float] | None = None,
        metadata: dict[str, Any] | None = None,
        status: Status | None = None,
    ) -> None:
        happening = Happening(kind, at, status, metrics or {}, metadata or {})
        self.events.append(Event(self.new_id(), self._site_id, self._app, entity, happening))


class _Run:
    """One job from its start to its end."""

    def __init__(
        self, program: Program, step: Step, lot: _Lot, facts: dict[str, Any], chance: Random, paper: _Paper
    ) -> None:
        self._program = program
        self._metrics = program.metrics or step.metrics
        self._errors = program.errors or step.errors
        self._facts = facts
        self._chance = chance
        self._paper = paper
        self._job = Entity("job", paper.new_id(), business_key=lot.name)
        self._wafers = self._choose_wafers(lot.wafers)
        self._memory_mb = chance.uniform(*program.memory_mb)

    def play(self, at: datetime) -> datetime:
        """Write every event of the job; the answer is when it ended."""
        chance, paper = self._chance, self._paper
        paper.write(
            self._job, "started", at, metadata=self._facts | ({"wafers": len(self._wafers)} if self._wafers else {})
        )
        ending, note = self._choose_ending()
        steps = self._wafers or [0]
        trouble = chance.randrange(len(steps)) if ending != "finished" else None
        survives = chance.randrange(len(steps)) if chance.random() < SURVIVED_SHARE else None
        now = at + timedelta(seconds=chance.uniform(0.05, 0.6))
        for index, wafer in enumerate(steps):
            seconds = chance.uniform(*self._program.seconds)
            if index == trouble:
                seconds *= chance.uniform(0.1, 0.95)
            if index == survives:
                metadata = {"last_warning": chance.choice(SURVIVED)}
                paper.write(
                    self._job, "error", now + timedelta(seconds=seconds / 2), metadata=metadata, status="running"
                )
            if self._wafers:
                self._wafer(wafer, now, seconds, ending if index == trouble else "finished", note)
            else:
                self._reading(self._job, now, seconds)
            now += timedelta(seconds=seconds)
            if index == trouble:
                break
            if index % 4 == 3:
                paper.write(self._job, "progress", now, {"progress": round((index + 1) / len(steps), 3)})
            now += timedelta(seconds=chance.uniform(0.02, 0.3))
        now += timedelta(seconds=chance.uniform(0.05, 1.0))
        self._end(self._job, at, now, ending, note)
        return now

    def _choose_wafers(self, in_lot: int) -> list[int]:
        if self._program.wafers is None:
            return []
        low, high = self._program.wafers
        return sorted(self._chance.sample(range(1, in_lot + 1), min(in_lot, self._chance.randint(low, high))))

    def _choose_ending(self) -> tuple[Kind, dict[str, Any]]:
        dice = self._chance.random()
        if dice < FAILED_SHARE:
            return "error", {"error": self._chance.choice(self._errors)}
        if dice < FAILED_SHARE + CANCELED_SHARE:
            return "canceled", {"reason": self._chance.choice(CANCEL_REASONS)}
        return "finished", {}

    def _wafer(self, wafer: int, at: datetime, seconds: float, ending: Kind, note: dict[str, Any]) -> None:
        entity = Entity("subjob", self._paper.new_id(), self._job.id, self._job.business_key, f"wafer-{wafer:02}")
        self._paper.write(entity, "started", at, metadata={"wafer": wafer, "slot": wafer, "tool": self._facts["tool"]})
        self._reading(entity, at, seconds)
        self._end(entity, at, at + timedelta(seconds=seconds), ending, note)

    def _reading(self, entity: Entity, at: datetime, seconds: float) -> None:
        """What the sensors say once on the way, and how far the work is when it takes longer."""
        at += timedelta(seconds=seconds * self._chance.uniform(0.3, 0.6))
        self._paper.write(entity, "metric", at, {name: self._measure(spread) for name, spread in self._metrics.items()})
        if seconds > 8:
            at += timedelta(seconds=seconds * 0.2)
            self._paper.write(entity, "progress", at, {"progress": round(self._chance.uniform(0.6, 0.9), 2)})

    def _measure(self, spread: Range) -> float:
        mean, sigma = spread
        value = self._chance.gauss(mean, sigma)
        if mean >= 10 and float(mean).is_integer() and float(sigma).is_integer():
            return float(max(0, round(value)))
        return round(value, 3)

    def _end(self, entity: Entity, begun_at: datetime, at: datetime, kind: Kind, note: dict[str, Any]) -> None:
        chance = self._chance
        seconds = (at - begun_at).total_seconds()
        user = seconds * self._program.cores * chance.uniform(0.7, 1.15)
        share = chance.uniform(0.55, 0.9) if entity.type == "subjob" else 1.0
        metrics = {
            "duration_s": round(seconds, 3),
            "cpu_user_s": round(user, 3),
            "cpu_system_s": round(user * chance.uniform(0.04, 0.2), 3),
            "mem_max_mb": round(self._memory_mb * share, 1),
        }
        self._paper.write(entity, kind, at, metrics, note)
