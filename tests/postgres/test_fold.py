"""The fold is a function of the set of events: whatever the order, grouping, repetition and number of writers."""

import asyncio
import json
import random
import time
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabmon.store.events import write_events
from fabmon.store.pool import Pool
from fabmon.wire.event import Event, read_event
from tests.contract.reference import reference_row
from tests.make import NOON, event_dict
from tests.postgres.rows import read_run

KINDS: dict[str, list[str | None]] = {
    "started": [None],
    "progress": [None, "running"],
    "metric": [None],
    "finished": [None, "succeeded", "failed", "canceled"],
    "error": [None, "running", "failed", "succeeded"],
    "canceled": [None, "canceled"],
}
# Few moments and few values: what must be decided by rank and key is what a wide range would never meet.
MOMENTS = st.integers(0, 4)
NUMBERS = st.sampled_from([0.0, 1.5, 2.25, -3.0])
METRICS = st.dictionaries(
    st.sampled_from(["duration_s", "cpu_user_s", "cpu_system_s", "mem_max_mb", "progress", "temperature_c"]),
    NUMBERS,
    max_size=3,
)
METADATA = st.dictionaries(
    st.sampled_from(["tool", "fabmon_lost", "ü\\\n\t"]), st.sampled_from(["a", "b\\", None, [1]]), max_size=2
)
KEYS = st.integers(0, 2**64 - 1)


def _key(event: dict[str, Any]) -> int:
    key: int = event["idempotency_key"]
    return key


@st.composite
def happenings(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(sorted(KINDS)))
    found = event_dict(
        kind,
        at=draw(MOMENTS),
        status=draw(st.sampled_from(KINDS[kind])),
        metrics=draw(METRICS),
        metadata=draw(METADATA),
        business_key=draw(st.sampled_from([None, "LOT-1", "LOT\t2", ""])),
        app_name=draw(st.sampled_from(["recipe-runner", "a\\b"])),
        version=draw(st.sampled_from([None, "1", "2"])),
    )
    return found | {"idempotency_key": draw(KEYS)}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """The events of one run, and the batches in which they and some repeats arrive."""
    events = draw(st.lists(happenings(), min_size=1, max_size=8, unique_by=_key))
    arrivals = draw(st.permutations(events + draw(st.lists(st.sampled_from(events), max_size=4))))
    parts = draw(st.integers(1, len(arrivals)))
    return events, [arrivals[start::parts] for start in range(parts)]


@settings(max_examples=60)
@given(history=histories())
async def test_any_order_grouping_and_repetition_from_two_writers_gives_the_reference_row(
    pool: Pool, history: tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]
) -> None:
    events, batches = history
    # Half of each key is this example's own: an earlier example has stored the smallest keys already.
    run, salt = str(uuid.uuid4()), uuid.uuid4().int >> 64 << 64
    for each in events:
        each["entity"]["id"] = run
        each["idempotency_key"] = str(uuid.UUID(int=salt + each["idempotency_key"]))

    await asyncio.gather(_write(pool, batches[0::2]), _write(pool, batches[1::2]))

    for each in events:
        each["event"]["at"] = datetime.fromisoformat(each["event"]["at"])
    expected = reference_row(events)
    row = await read_run(pool, run)
    assert {name: row[name] for name in expected} == expected


async def test_a_terminal_event_before_started(pool: Pool) -> None:
    row = await _row_of(pool, ("finished", 9, {}), ("started", 1, {}))
    assert (row["status"], row["duration_s"]) == ("succeeded", 8.0)


async def test_a_late_started_does_not_revive_a_finished_job(pool: Pool) -> None:
    row = await _row_of(pool, ("started", 1, {}), ("finished", 5, {}), ("started", 7, {}), ("progress", 8, {}))
    assert (row["status"], row["started_at"]) == ("succeeded", NOON + timedelta(seconds=1))


async def test_the_last_of_several_ends_wins_wherever_it_arrives(pool: Pool) -> None:
    row = await _row_of(pool, ("error", 9, {}), ("finished", 5, {"duration_s": 4.0}), ("started", 1, {}))
    assert (row["status"], row["duration_s"], row["error_count"]) == ("failed", 8.0, 1)


async def test_equal_times_are_decided_by_rank_and_then_by_key(pool: Pool) -> None:
    run, low, high = str(uuid.uuid4()), str(uuid.UUID(int=uuid.uuid4().int >> 2)), str(uuid.UUID(int=2**128 - 1))
    # The end has the least key and arrives first; of two that say the same at the same moment the higher key counts.
    events = [
        event_dict("finished", run=run, key=low, metadata={"said by": "the end"}),
        event_dict("progress", run=run, key=high, metrics={"progress": 0.9}, metadata={"said by": "progress"}),
        event_dict("progress", run=run, metrics={"progress": 0.1}),
        event_dict("started", run=run),
    ]
    await _write(pool, [[each] for each in events])
    row = await read_run(pool, run)
    assert (row["status"], row["progress"], row["metadata"]) == ("succeeded", 0.9, {"said by": "the end"})


async def test_an_error_that_the_job_survived_does_not_end_it(pool: Pool) -> None:
    run = str(uuid.uuid4())
    await _write(pool, [[event_dict("error", run=run, status="running"), event_dict("progress", run=run, at=1)]])
    row = await read_run(pool, run)
    assert (row["status"], row["ended_at"], row["error_count"]) == ("running", None, 1)


async def test_a_clock_step_back_is_decided_by_what_the_events_say(pool: Pool) -> None:
    row = await _row_of(pool, ("started", 3600, {}), ("progress", -10, {"progress": 0.1}), ("finished", -5, {}))
    assert (row["status"], row["started_at"]) == ("succeeded", NOON + timedelta(seconds=3600))
    assert row["duration_s"] == -3605.0


async def test_a_subjob_is_kept_before_its_job_is_seen(pool: Pool) -> None:
    run, parent = str(uuid.uuid4()), str(uuid.uuid4())
    await _write(pool, [[event_dict(run=run, parent=parent, sub_key="wafer-07")]])
    row = await read_run(pool, run)
    assert (str(row["parent_id"]), row["sub_key"]) == (parent, "wafer-07")


async def test_two_sites_may_use_the_same_ids(pool: Pool) -> None:
    run, key = str(uuid.uuid4()), str(uuid.uuid4())
    await _write(pool, [[event_dict(run=run, key=key, site="fab1"), event_dict(run=run, key=key, site="fab2")]])
    assert (await read_run(pool, run, site="fab1"))["event_count"] == 1
    assert (await read_run(pool, run, site="fab2"))["event_count"] == 1


async def test_a_key_is_stored_once_whatever_the_repeat_says(pool: Pool) -> None:
    run, other, key = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())
    first = await write_events(pool, _events([event_dict(run=run, key=key)]))
    again = _events([event_dict("finished", run=other, key=key, at=-86_400 * 400), event_dict(run=other, at=1)])
    assert (first, await write_events(pool, again)) == (set(), {0})
    assert (await read_run(pool, run))["event_count"] == 1
    assert (await read_run(pool, other))["status"] == "running"


async def test_two_writers_with_the_same_keys_in_opposite_order_store_each_once(pool: Pool) -> None:
    runs = [str(uuid.uuid4()) for _ in range(40)]
    events = [event_dict(kind, run=run, at=n) for run in runs for n, kind in enumerate(("started", "finished"))]
    mixed = random.Random(7).sample(events, len(events))
    await asyncio.gather(_write(pool, [events] * 2), _write(pool, [mixed] * 2), _write(pool, [events[::-1]] * 2))
    assert [(await read_run(pool, run))["event_count"] for run in runs] == [2] * len(runs)


@pytest.mark.one_lane
async def test_reverse_order_costs_what_order_costs(pool: Pool) -> None:
    for count, size in ((10_000, 500), (400, 1)):
        ordered, backwards = (
            [event_dict("progress", run=run, at=n, metrics={"progress": n}) for n in range(count)]
            for run in (str(uuid.uuid4()), str(uuid.uuid4()))
        )
        backwards.reverse()
        took = [0.0, 0.0]
        for start in range(0, count, size):
            for place, events in enumerate((ordered, backwards)):
                batch = _events(events[start : start + size])
                begun = time.perf_counter()
                await write_events(pool, batch)
                took[place] += time.perf_counter() - begun
        assert took[1] <= 3 * took[0], took


async def _row_of(pool: Pool, *happened: tuple[str, float, dict[str, float]]) -> dict[str, Any]:
    run = str(uuid.uuid4())
    for kind, at, metrics in happened:
        await write_events(pool, _events([event_dict(kind, run=run, at=at, metrics=metrics)]))
    return await read_run(pool, run)


async def _write(pool: Pool, batches: list[list[dict[str, Any]]]) -> None:
    """By COPY and by one statement in turn."""
    for number, batch in enumerate(batches):
        await write_events(pool, _events(batch), small_batch=number % 2 * len(batch))


def _events(dicts: list[dict[str, Any]]) -> list[Event]:
    return [read_event(json.dumps(each).encode(), now=NOON + timedelta(days=1)) for each in dicts]
