"""How long the backlog waits between tries: never long, never all at the same time."""

import pytest

from fabmon.clock import monotonic
from fabmon.errors import Overloaded, PeerRefused, PeerUnavailable
from fabmon.peer.backoff import full_jitter
from fabmon.relay.pace import MOST_EVENTS, Pace
from fabmon.relay.upstream import Upstream


def test_jitter_is_full_and_grows_to_half_a_minute() -> None:
    runs = [list(zip(range(30), full_jitter(), strict=False)) for _ in range(200)]
    delays = [[delay for _, delay in run] for run in runs]
    assert all(0 <= delay <= min(0.2 * 2**place, 30.0) for run in delays for place, delay in enumerate(run))
    late = sorted(delay for run in delays for delay in run[10:])
    assert late[0] < 1.0
    assert late[-1] > 29.0
    assert late[len(late) // 2] == pytest.approx(15.0, abs=2.0)


@pytest.mark.parametrize("error", [PeerUnavailable("", 429), PeerUnavailable("", 507), Overloaded("")])
def test_who_is_there_and_busy_gets_longer_and_longer_pauses(error: PeerUnavailable) -> None:
    longest = 0.0
    for _ in range(50):
        pace = Pace()
        longest = max(longest, *(pace.failed(error) for _ in range(20)))
    assert 20.0 < longest <= 30.0


@pytest.mark.parametrize(
    "error", [PeerUnavailable("no answer"), PeerUnavailable("", 503), PeerUnavailable("", 500), PeerRefused("", 401)]
)
def test_who_is_away_or_refuses_is_asked_again_within_a_second_by_one_event(error: PeerUnavailable) -> None:
    pace = Pace()
    for _ in range(100):
        assert 0.2 < pace.failed(error) <= 1.0
        assert pace.max_events == 1
    steps = []
    while pace.max_events < MOST_EVENTS:
        pace.delivered()
        steps.append(pace.max_events)
    assert steps == [4, 16, 64, 256, 1024, MOST_EVENTS]


def test_what_retry_after_asks_for_holds_until_an_answer_shows_better() -> None:
    upstream = Upstream("site")
    upstream.failed(PeerUnavailable("", 503, 7.0))
    assert 6.9 < upstream.asked_to_wait_seconds() < 7.8
    upstream.failed(PeerUnavailable("", 503))
    upstream.failed(PeerUnavailable("", 503, 1.0))
    assert upstream.asked_to_wait_seconds() > 6.9
    asked_at = monotonic()
    upstream.failed(PeerUnavailable("", 503))
    upstream.is_back(asked_at)
    assert (upstream.state, upstream.asked_to_wait_seconds() > 6.9) == ("away", True)
    upstream.is_back(monotonic())
    assert upstream.asked_to_wait_seconds() == 0
