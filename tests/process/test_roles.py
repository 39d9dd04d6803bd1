"""The main job on real input: programs run as jobs, seen through all three roles; and nothing lost when one dies."""

import os
import random
import signal
import subprocess
import sys
import time

import psycopg
import pytest

from tests.fixtures.reporting import drained, more, reporting, stored
from tests.fixtures.roles import Service, StartRole, eventually
from tests.fixtures.stub_sidecar import FABMON_RUN
from tests.fixtures.timing import in_time
from tests.make import event_dict, life


@pytest.fixture
def sidecar(make_role: StartRole, local: Service) -> Service:
    """The real one; the tests of reporting have a stub of that name (conftest.py)."""
    return make_role("sidecar", FABMON_LOCAL_URL=local.url).start()


@pytest.mark.one_lane
def test_a_program_run_as_a_job_is_seen_in_central(sidecar: Service, central: Service) -> None:
    burn = "import time; a = bytearray(80 << 20)\nwhile time.process_time() < 0.4: sum(range(9999))\ntime.sleep(0.3)"
    command = [*FABMON_RUN, "--app", "yield-report", "--key", "LOT-9", "--url", sidecar.url, "--", sys.executable, "-c"]
    assert subprocess.run([*command, burn], check=False).returncode == 0
    assert subprocess.run([*command, "import sys; sys.exit(3)"], check=False).returncode == 3

    ended = "/v1/jobs?site=fab1&app_name=yield&status=!running"
    eventually(lambda: central.get(ended).json["count"] == 2)  # they are sent while the program is gone already
    failed, done = central.get(ended).json["items"]
    assert (failed["status"], failed["metrics"]["exit_code"], done["status"]) == ("failed", 3.0, "succeeded")
    assert (done["job_key"], done["site_id"]) == ("LOT-9", "fab1")
    assert 0.35 <= done["cpu_user_s"] + done["cpu_system_s"] <= 3
    assert 80 <= done["mem_max_mb"] <= 200
    assert 0.7 <= done["duration_s"] <= 10


@pytest.mark.one_lane
def test_the_sidecar_answers_as_the_contract_says(sidecar: Service, local: Service) -> None:
    assert sidecar.post("/v1/ingest/events", event_dict()).json == {"ok": True}
    reply = sidecar.send([event_dict(), event_dict(site="fab2"), event_dict(kind="x")])
    assert reply.status == 207
    assert (reply.json["forwarded"], reply.json["spooled"]) == (1, 0)
    # The second is refused by the site, the third by the sidecar itself.
    assert [(each["index"], each["code"]) for each in reply.json["rejected"]] == [(1, "wrong_site"), (2, "bad_kind")]
    health = sidecar.get("/v1/healthz").json
    assert (health["status"], health["service"], health["version"]) == ("ok", "sidecar-agent", "2.0.0")
    assert (health["spool_count"], health["dead_letters"]) == (0, 0)
    for role in (sidecar, local):
        assert "fabmon_events_total" in role.get("/metrics").body.decode()
        assert role.get("/livez").status == role.get("/readyz").status == 200


@pytest.mark.one_lane
def test_a_sidecar_without_its_site_spools_and_delivers_later(sidecar: Service, local: Service) -> None:
    local.kill()
    reply = sidecar.send(life())
    assert (reply.status, reply.json["forwarded"], reply.json["spooled"]) == (200, 0, 4)
    sent = 1

    def send_one() -> float:
        nonlocal sent
        sent += 1
        begun = time.monotonic()
        assert sidecar.post("/v1/ingest/events", event_dict()).json == {"ok": True}
        return time.monotonic() - begun

    in_time(0.5, send_one)  # known to be away: nothing waits for it
    health = sidecar.get("/v1/healthz").json
    assert (health["status"], health["spool_count"]) == ("degraded", 3 + sent)
    assert health["oldest_pending_age_s"] >= 0
    local.start()
    drained(sidecar)
    assert local.get("/v1/jobs").json["count"] == sent


@pytest.mark.one_lane
def test_sigterm_finishes_what_was_accepted(sidecar: Service, local: Service) -> None:
    with reporting(sidecar) as accepted:
        eventually(lambda: len(accepted) > 50)
        assert sidecar.stop() == 0
    with reporting(local) as more:
        eventually(lambda: len(more) > 50)
        assert local.stop() == 0
    sidecar.start()
    local.start()
    drained(sidecar)
    assert stored(local) >= {*accepted, *more}


def test_kill_of_the_sidecar_and_of_local_leaves_one_row_for_each_acknowledged_key(
    sidecar: Service, local: Service, database_url: str, soak: int
) -> None:
    accepted: list[str] = []
    kills = (sidecar, local, sidecar, local) * soak
    for victim in kills:
        with reporting(sidecar, insisting=True) as these:
            more(these, 20)
            time.sleep(random.uniform(0, 0.3))
            victim.kill()
            victim.start("/livez")
            more(these, 20)
        accepted += these
    drained(sidecar)
    drained(local)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("select entity_id::text, idempotency_key from event").fetchall()
    assert sorted(entity for entity, _ in rows) == sorted(accepted)
    assert len({key for _, key in rows}) == len(set(accepted)) == len(accepted)
    print(f"{len(kills)} kills, {len(accepted)} events acknowledged, {len(rows)} rows")  # noqa: T201 - for `make soak`


def test_local_serves_from_its_spool_while_its_database_is_away(make_role: StartRole, database_url: str) -> None:
    away = "postgresql://postgres@127.0.0.1:9/nothing"
    local = make_role("local", FABMON_DATABASE_URL=away, FABMON_DATABASE_WAIT_S="0.5").start("/livez")
    ready = local.get("/readyz")
    assert (ready.status, "spool" in ready.json["not_ready"]["database"]) == (503, True)
    reply = local.send(life())
    assert (reply.status, reply.json["spooled"]) == (200, 4)
    asked = local.get("/v1/jobs")
    assert (asked.status, asked.json["code"], "retry-after" in asked.headers) == (503, "store_unavailable", True)
    assert local.stop() == 0
    # The same spool, over a database that is there.
    again = make_role("local", FABMON_DATABASE_URL=database_url, FABMON_DATA_DIR=local.data_dir).start()
    drained(again)
    assert again.get("/v1/jobs").json["count"] == 1


def test_kill_of_postgres_loses_no_acknowledged_event(make_role: StartRole) -> None:
    local = make_role("local", FABMON_SITE_ID="fab1").start()  # the embedded server, with fsync on
    accepted: list[str] = []
    for _ in range(2):
        eventually(lambda: local.get("/readyz").status == 200, 30)  # the one that was killed is started again
        with reporting(local) as these:
            more(these, 60)
            _kill_postmaster(local)
            more(these, 60)
        accepted += these
    eventually(lambda: local.get("/readyz").status == 200, 30)
    drained(local)
    assert stored(local) >= set(accepted)
    assert local.stop() == 0


def _kill_postmaster(local: Service) -> None:
    pid = int((local.data_path / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
