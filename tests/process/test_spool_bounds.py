"""What callers and the people on call see of a spool that is full, fails, drops, or was left behind by a killed role."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.disk import mounted_disk
from tests.fixtures.reporting import drained, stored
from tests.fixtures.roles import Reply, Service, StartRole, eventually, free_port
from tests.make import event_dict
from tests.process.test_metrics import value

pytestmark = pytest.mark.one_lane

NOWHERE = "http://127.0.0.1:1"
MIB = 1024 * 1024


def large() -> dict[str, Any]:
    return event_dict(metadata={"note": "x" * 60_000})


def fill(service: Service) -> tuple[list[str], Reply]:
    """Send batches until one is not taken: the ids of the events that were, and the answer to the last."""
    taken: list[str] = []
    while True:
        batch = [large() for _ in range(3)]
        reply = service.send(batch)
        if reply.status != 200:
            return taken, reply
        taken += [event["entity"]["id"] for event in batch]


def refusal(reply: Reply) -> tuple[int, str, str, float]:
    """Status, code and how long to wait, as the header and the body say."""
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.status, reply.json["code"], reply.headers["retry-after"], reply.json["retry_after_s"]


def test_a_full_spool_is_507_and_keeps_nothing_of_the_request_half(make_role: StartRole, database_url: str) -> None:
    local = make_role("local", FABMON_DATABASE_URL=database_url)
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url, FABMON_SPOOL_MAX_BYTES=str(MIB)).start()
    taken, reply = fill(sidecar)
    assert refusal(reply) == (507, "spool_full", "30", 30.0)
    assert f"of at most {MIB} bytes" in reply.json["detail"]
    assert sidecar.get("/v1/healthz").json["spool_count"] == len(taken)
    assert sidecar.get("/readyz").status == 200  # smaller ones are taken
    while sidecar.post("/v1/ingest/events", event := event_dict()).status == 200:
        taken.append(event["entity"]["id"])
    assert "of at most" in sidecar.get("/readyz").json["not_ready"]["spool"]
    local.start()
    drained(sidecar)
    assert stored(local) == set(taken)
    assert sidecar.get("/readyz").status == 200
    assert sidecar.send([event_dict()]).json["forwarded"] == 1


def test_a_full_disk_is_507_until_it_is_freed(make_role: StartRole, tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "disk", "2m") as disk:
        sidecar = make_role("sidecar", FABMON_LOCAL_URL=NOWHERE, FABMON_SPOOL_DIR=str(disk / "spool")).start()
        (disk / "ballast").write_bytes(b"x" * MIB)
        taken, reply = fill(sidecar)
        assert refusal(reply) == (507, "spool_full", "30", 30.0)
        (disk / "ballast").unlink()
        assert sidecar.send([large()]).json["spooled"] == 1
        assert sidecar.get("/v1/healthz").json["spool_count"] == len(taken) + 1
        assert sidecar.stop() == 0


def test_a_disk_that_fails_is_503_and_the_spool_heals(make_role: StartRole) -> None:
    """Its directory is another file for a while."""
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=NOWHERE).start()
    directory = Path(sidecar.get("/v1/healthz").json["spool_dir"])
    aside = directory.with_name("aside")
    directory.rename(aside)
    directory.write_bytes(b"")
    assert refusal(sidecar.post("/v1/ingest/events", event_dict())) == (503, "spool_failed", "5", 5.0)
    assert refusal(sidecar.get("/v1/healthz")) == (503, "spool_failed", "5", 5.0)
    assert "spool" in sidecar.get("/readyz").json["not_ready"]
    directory.unlink()
    aside.rename(directory)
    assert sidecar.post("/v1/ingest/events", event_dict()).status == 200
    assert sidecar.get("/v1/healthz").json["spool_count"] == 1


def test_the_disk_is_left_what_the_setting_says(make_role: StartRole, tmp_path: Path) -> None:
    least = str(shutil.disk_usage(tmp_path).free * 2)
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=NOWHERE, FABMON_SPOOL_MIN_FREE_BYTES=least).start("/livez")
    assert "kept free" in sidecar.get("/readyz").json["not_ready"]["spool"]
    reply = sidecar.post("/v1/ingest/events", event_dict())
    assert (refusal(reply), "kept free" in reply.json["detail"]) == ((507, "spool_full", "30", 30.0), True)


def test_the_oldest_are_dropped_where_the_policy_says_so(make_role: StartRole) -> None:
    settings = {"FABMON_SPOOL_MAX_BYTES": str(MIB), "FABMON_SPOOL_POLICY": "drop_oldest"}
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=NOWHERE, **settings).start()
    for _ in range(12):
        assert sidecar.send([large() for _ in range(3)]).json["spooled"] == 3
    health = sidecar.get("/v1/healthz").json
    dropped = health["spool"]["dropped"]["full"]
    assert (dropped + health["spool_count"], dropped > 15) == (36, True)
    assert value(sidecar, 'fabmon_spool_dropped_total{reason="full"}') == dropped


def test_what_is_too_old_is_dropped_where_a_setting_says_so(make_role: StartRole) -> None:
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=NOWHERE, FABMON_SPOOL_MAX_AGE_S="1").start()
    assert sidecar.send([event_dict() for _ in range(3)]).json["spooled"] == 3
    eventually(lambda: sidecar.get("/v1/healthz").json["spool"]["dropped"] == {"age": 3})
    assert value(sidecar, 'fabmon_spool_dropped_total{reason="age"}') == 3


def test_the_spool_of_a_local_that_was_killed_is_drained_by_the_next(make_role: StartRole, database_url: str) -> None:
    away = f"postgresql://postgres@127.0.0.1:{free_port()}/nothing"
    local = make_role("local", FABMON_DATABASE_URL=away, FABMON_DATABASE_WAIT_S="0.2").start("/livez")
    events = [event_dict() for _ in range(50)]
    for event in events:
        assert local.post("/v1/ingest/events", event).status == 200
    health = local.get("/v1/healthz").json
    assert (health["spool_count"], health["upstream"]["url"], health["upstream"]["state"]) == (50, "database", "away")
    local.kill()
    again = make_role("local", FABMON_DATABASE_URL=database_url, FABMON_DATA_DIR=local.data_dir).start()
    drained(again)
    assert stored(again) == {event["entity"]["id"] for event in events}
    health = again.get("/v1/healthz").json
    assert (health["status"], health["upstream"]["state"], health["spool"]["delivered"]) == ("ok", "ok", 50)


def test_the_metrics_say_what_the_health_says(make_role: StartRole) -> None:
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=NOWHERE).start()
    eventually(lambda: sidecar.get("/v1/healthz").json["upstream"]["state"] == "away")  # before the first event
    assert value(sidecar, "fabmon_upstream_up") == 0
    sidecar.send([event_dict() for _ in range(7)])
    time.sleep(0.3)
    health = sidecar.get("/v1/healthz").json
    expected = {
        "fabmon_spool_accepted_total": 7,
        "fabmon_spool_delivered_total": 0,
        "fabmon_spool_dead_total": 0,
        "fabmon_spool_set_aside_total": 0,
        'fabmon_spool_dropped_total{reason="age"}': 0,
        "fabmon_spool_pending_events": 7,
        "fabmon_spool_bytes": health["spool_bytes"],
        "fabmon_dead_letters": 0,
        'fabmon_upstream_paused{reason="away"}': 1,
        'fabmon_upstream_paused{reason="refusing"}': 0,
        'fabmon_upstream_paused{reason="held"}': 0,
    }
    assert {name: value(sidecar, name) for name in expected} == expected
    age = value(sidecar, "fabmon_spool_oldest_pending_age_seconds")
    assert age is not None
    assert 0.2 < health["oldest_pending_age_s"] <= age < 30
    assert (value(sidecar, "fabmon_spool_fsync_seconds_count") or 0) >= 1
