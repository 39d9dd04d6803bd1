"""A local whose database's network goes dark: connections stay open, and nothing comes back."""

import time
from threading import Thread

import pytest

from tests.fixtures.proxy import network
from tests.fixtures.roles import StartRole, eventually


@pytest.mark.one_lane
def test_health_and_readiness_answer_in_time_while_the_database_is_silent(
    make_role: StartRole, database_url: str
) -> None:
    with network(database_url) as between:
        local = make_role("local", FABMON_DATABASE_URL=between.url, FABMON_SITE_ID="fab1").start()
        between.go_dark()
        answers = []

        def ask() -> None:
            begun = time.monotonic()
            ready, health = local.get("/readyz"), local.get("/v1/healthz")
            answers.append((time.monotonic() - begun, ready, health))

        asking = [Thread(target=ask) for _ in range(20)]  # more than there are connections
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert len(answers) == 20
        for took, ready, health in answers:
            assert took < 10  # two seconds each; the pool alone would wait for half a minute
            assert (ready.status, "database" in ready.json["not_ready"]) == (503, True)
            assert (health.status, health.json["status"]) == (200, "degraded")
            assert "no answer within 2 s" in health.json["database"]["error"]
        assert local.get("/livez").status == 200
        between.come_back()
        eventually(lambda: local.get("/readyz").status == 200)
