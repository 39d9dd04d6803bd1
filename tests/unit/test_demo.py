"""The simulated fab tells a story that holds together."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from uuid import UUID

import pytest

from fabmon.demo.delivery import Delivery, deliveries, outage
from fabmon.demo.fab import HISTORY, Job, jobs
from fabmon.wire.codec import encode
from fabmon.wire.event import Event, read_event

START = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
SITE = "fab1"


def some_deliveries(number: int, *, seed: int = 7, start: datetime = START) -> list[Delivery]:
    return list(islice(deliveries(seed=seed, site_id=SITE, start=start), number))


def some_jobs(number: int) -> list[Job]:
    return list(islice(jobs(seed=7, site_id=SITE, start=START), number))


def course(sent: list[Delivery], start: datetime) -> list[tuple[timedelta, str, str, str | None]]:
    """What happens, without the ids."""
    return [(d.at - start, d.event.app.name, d.event.event.kind, d.event.entity.sub_key) for d in sent]


def test_the_same_seed_site_and_start_give_the_same_deliveries() -> None:
    assert some_deliveries(3000) == some_deliveries(3000)
    assert some_deliveries(100) != some_deliveries(100, seed=8)


def test_a_second_start_has_the_same_course_and_new_ids() -> None:
    later = START + timedelta(hours=1)
    first, second = some_deliveries(2000), some_deliveries(2000, start=later)
    assert course(first, START) == course(second, later)
    assert not {d.event.idempotency_key for d in first} & {d.event.idempotency_key for d in second}
    assert not {d.event.entity.id for d in first} & {d.event.entity.id for d in second}
    assert {d.event.app.app_id for d in first} == {d.event.app.app_id for d in second}


def test_every_event_passes_the_rules_of_the_wire() -> None:
    for sent in some_deliveries(6000):
        assert read_event(encode(sent.event), now=sent.at, site_id=SITE) == sent.event


def test_a_job_starts_once_ends_once_and_its_subjobs_lie_within_it() -> None:
    for job in some_jobs(400):
        by_entity: dict[UUID, list[Event]] = {}
        for event in job.events:
            by_entity.setdefault(event.entity.id, []).append(event)
        tops = [events for events in by_entity.values() if events[0].entity.type == "job"]
        assert len(tops) == 1
        job_id = tops[0][0].entity.id
        assert len(by_entity) - 1 <= 25
        for events in by_entity.values():
            kinds = Counter(event.event.kind for event in events)
            assert kinds["started"] == 1
            assert sum(event.event.ends_the_run for event in events) == 1
            assert events[0].event.kind == "started"
            assert events[-1].event.ends_the_run
            assert tops[0][0].event.at <= events[0].event.at <= events[-1].event.at <= tops[0][-1].event.at
            lasted = (events[-1].event.at - events[0].event.at).total_seconds()
            assert events[-1].event.metrics["duration_s"] == pytest.approx(lasted, abs=0.002)
            assert all(e.entity.parent_id == job_id for e in events if e.entity.type == "subjob")


def test_a_few_percent_of_the_jobs_fail_or_are_canceled_and_say_why() -> None:
    ends = [job.events[-1].event for job in some_jobs(2000)]
    shares = {kind: number / len(ends) for kind, number in Counter(end.kind for end in ends).items()}
    assert 0.02 < shares["error"] < 0.06
    assert 0.01 < shares["canceled"] < 0.04
    assert all(end.metadata["error"] for end in ends if end.kind == "error")
    assert all(end.metadata["reason"] for end in ends if end.kind == "canceled")


def test_at_the_start_there_is_a_history_and_jobs_are_running() -> None:
    begun = list(takewhile(lambda job: job.starts_at < START, jobs(seed=7, site_id=SITE, start=START)))
    assert 60 <= len(begun) <= 150
    assert all(job.starts_at >= START - HISTORY for job in begun)
    assert begun[0].starts_at < START - timedelta(hours=3)
    assert sum(job.events[-1].event.at > START for job in begun) >= 5


def test_at_speed_one_five_to_fifteen_events_a_second_are_sent() -> None:
    end = START + timedelta(minutes=10)
    sent = takewhile(lambda d: d.at < end, deliveries(seed=7, site_id=SITE, start=START))
    assert 5 < sum(d.at >= START for d in sent) / 600 < 15


def test_some_events_are_late_some_are_repeated_and_some_are_out_of_order() -> None:
    sent = some_deliveries(6000)
    assert [d.at for d in sent] == sorted(d.at for d in sent)
    assert all(d.at >= d.event.event.at for d in sent)
    first: dict[UUID, Event] = {}
    assert all(first.setdefault(d.event.idempotency_key, d.event) == d.event for d in sent)
    repeated = len(sent) - len(first)
    assert 0.005 < repeated / len(sent) < 0.1
    assert 0.005 < sum(d.at - d.event.event.at > timedelta(seconds=5) for d in sent) / len(sent) < 0.2
    happened = [d.event.event.at for d in sent]
    assert sum(a > b for a, b in pairwise(happened)) > 100


def test_nothing_is_sent_during_an_outage_and_part_of_it_twice_afterwards() -> None:
    windows = [window for slot in range(3) if (window := outage(7, slot))]
    assert windows
    assert all(10 <= end - begin <= 30 for begin, end in windows)
    until = START + timedelta(seconds=windows[-1][1] + 30)
    sent = list(takewhile(lambda d: d.at < until, deliveries(seed=7, site_id=SITE, start=START)))
    for begin, end in windows:
        first, last = START + timedelta(seconds=begin), START + timedelta(seconds=end)
        assert not [d for d in sent if first <= d.at < last]
        held = Counter(d.event.idempotency_key for d in sent if first <= d.event.event.at < last)
        assert len(held) > 20
        assert max(held.values()) == 2
