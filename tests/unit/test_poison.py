"""Events that the site refuses for good: they become dead letters and stop no other; what only seemed so does not."""

import itertools
from pathlib import Path

import pytest

from tests.fixtures.roles import eventually_async
from tests.fixtures.site import Answer, Event
from tests.unit.test_replay import poison, running


async def test_one_poisoned_event_in_ten_thousand_is_a_dead_letter_and_the_others_arrive(tmp_path: Path) -> None:
    async with running(tmp_path, 20_000, poison(7, 12_345)) as it:
        await it.drained()
        assert it.site.numbers == set(range(20_000)) - {7, 12_345}
        assert [(letter["event"]["n"], letter["code"], letter["status"]) for letter in it.letters()] == [
            (7, "wrong_site", 207),
            (12_345, "wrong_site", 207),
        ]
        assert {"at", "first_tried_at", "attempts", "detail", "seq"} <= it.letters()[0].keys()
        assert (it.spool.books.dead, it.spool.books.delivered) == (2, 19_998)


async def test_a_batch_too_large_is_halved_until_it_passes(tmp_path: Path) -> None:
    def at_most_ten(events: list[Event]) -> Answer:
        return Answer(status=413, body=b"") if len(events) > 10 else Answer()

    async with running(tmp_path, 400, at_most_ten) as it:
        await it.drained()
        assert (it.site.numbers, it.letters()) == (set(range(400)), [])


async def test_one_event_too_large_for_the_site_is_a_dead_letter(tmp_path: Path) -> None:
    def not_seven(events: list[Event]) -> Answer:
        return Answer(status=413, body=b"") if any(event["n"] == 7 for event in events) else Answer()

    async with running(tmp_path, 20, not_seven) as it:
        await it.drained()
        assert it.site.numbers == set(range(20)) - {7}
        assert [(letter["event"]["n"], letter["status"]) for letter in it.letters()] == [(7, 413)]


async def test_events_too_large_one_after_the_other_stop_none_behind_them(tmp_path: Path) -> None:
    def small_only(events: list[Event]) -> Answer:
        return Answer(status=413, body=b"") if any("pad" in event for event in events) else Answer()

    async with running(tmp_path, 0, small_only) as it:
        pads = [b'{"n":%d,"pad":"%b"}' % (number, b"x" * 500) for number in range(3)]
        await it.spool.append([*pads, *(b'{"n":%d}' % number for number in range(3, 40))])
        await it.drained()
        assert [(letter["event"]["n"], letter["code"]) for letter in it.letters()] == [
            (number, "body_too_large") for number in range(3)
        ]
        assert it.site.numbers == set(range(3, 40))


@pytest.mark.parametrize("status", [403, 500])
async def test_an_event_for_which_the_whole_request_is_refused_stops_no_other(tmp_path: Path, status: int) -> None:
    """As something between the two does that looks into bodies."""

    def behave(events: list[Event]) -> Answer:
        return Answer(status=status, body=b"") if any(event["n"] in (5, 6) for event in events) else Answer()

    async with running(tmp_path, 60, behave) as it:
        await it.drained(60.0)
        assert [(letter["event"]["n"], letter["code"], letter["status"]) for letter in it.letters()] == [
            (5, "refused", status), (6, "refused", status),
        ]  # fmt: skip
        assert it.site.numbers == set(range(60)) - {5, 6}
        assert it.letters()[0]["attempts"] >= (5 if status == 500 else 2)


async def test_a_refusal_that_is_mended_while_another_event_is_tried_gives_up_nothing(tmp_path: Path) -> None:
    refusals = iter([True, True])

    def behave(events: list[Event]) -> Answer:
        return Answer(status=401, body=b"") if next(refusals, False) else Answer()

    async with running(tmp_path, 30, behave) as it:
        await it.drained()
        assert (it.letters(), it.site.numbers) == ([], set(range(30)))


async def test_what_is_never_said_of_an_event_gives_up_none(tmp_path: Path) -> None:
    """Two servers stand behind one address, say, and one of them knows no token."""
    refusals = iter(range(3))

    def behave(events: list[Event]) -> Answer:
        is_refused = any(event["n"] == 0 for event in events) and next(refusals, None) is not None
        return Answer(status=401, body=b"") if is_refused else Answer()

    async with running(tmp_path, 30, behave) as it:
        await it.drained()
        assert (it.letters(), it.site.numbers) == ([], set(range(30)))


async def test_two_servers_that_take_turns_and_of_which_one_refuses_give_up_nothing(tmp_path: Path) -> None:
    turns = itertools.cycle([Answer(status=403, body=b""), Answer()])
    async with running(tmp_path, 3, lambda _: next(turns)) as it:
        await it.drained()
        assert (it.letters(), it.site.numbers) == ([], set(range(3)))


async def test_one_chance_in_between_proves_nothing(tmp_path: Path) -> None:
    """Of the batch, the event and another by turns the other passes, twice; then all do."""
    answers = iter([False, False, True, False, False, True, False])

    def behave(_: list[Event]) -> Answer:
        return Answer() if next(answers, True) else Answer(status=403, body=b"")

    async with running(tmp_path, 30, behave) as it:
        await it.drained(30.0)
        assert (it.letters(), it.site.numbers) == ([], set(range(30)))


async def test_413_for_everything_gives_up_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, 20, lambda _: Answer(status=413, body=b"")) as it:
        await eventually_async(lambda: it.upstream.pause)
        assert (it.spool.pending, it.upstream.pause) == (20, "refusing")
        it.site.behave = poison()
        await it.drained()
        assert it.letters() == []


async def test_a_single_event_that_is_refused_after_an_outage_holds_nothing_up(tmp_path: Path) -> None:
    """Three of the first four are bad, then the site fails: what begins with one event again is no measure."""
    refuse, failing = poison(0, 1, 2), iter([True, False, False, True])

    def behave(events: list[Event]) -> Answer:
        return Answer(status=503) if next(failing, False) else refuse(events)

    async with running(tmp_path, 200, behave) as it:
        await it.drained(15.0)
        assert [letter["event"]["n"] for letter in it.letters()] == [0, 1, 2]
