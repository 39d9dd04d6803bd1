"""One job with its events and subjobs, exports, figures: contract section 5 beyond the list."""

import csv
import io
import json
import socket
import uuid
from datetime import UTC, datetime

import psycopg
import pytest

from tests.fixtures.roles import Service, eventually
from tests.make import event_dict, life

RUN = str(uuid.UUID(int=77))


def test_a_job_with_its_events_and_subjobs(local: Service) -> None:
    wafers = [str(uuid.uuid4()) for _ in range(3)]
    events = life(RUN)
    local.send(
        events[::-1] + [each for n, w in enumerate(wafers) for each in life(w, n, parent=RUN, sub_key=f"wafer-{n}")]
    )
    assert local.get(f"/v1/jobs/{RUN}").json == local.get("/v1/jobs").json["items"][0]
    got = local.get(f"/v1/jobs/{RUN}/events").json
    assert [each["kind"] for each in got["items"]] == ["started", "progress", "metric", "finished"]
    assert got["items"][3]["metrics"]["duration_s"] == 300.5
    assert [each["sub_key"] for each in local.get(f"/v1/jobs/{RUN}/subjobs").json["items"]] == [
        "wafer-2",
        "wafer-1",
        "wafer-0",
    ]
    assert local.get(f"/v1/subjobs/{wafers[0]}").json["job_id"] == RUN
    assert local.get(f"/v1/subjobs/{wafers[0]}/events").json["count"] == 4
    for path in (f"/v1/jobs/{wafers[0]}", f"/v1/subjobs/{RUN}", f"/v1/jobs/{uuid.uuid4()}/events"):
        assert (local.get(path).status, local.get(path).json["code"]) == (404, "not_found"), path
    assert local.get("/v1/jobs/x").json["parameter"] == "id"
    assert local.get("/v1/jobs/x/subjobs").json["parameter"] == "id"
    assert local.get(f"/v1/jobs/{RUN}/events?limit=1&limit=2").json["parameter"] == "limit"
    assert local.get(f"/v1/jobs/{RUN}?colour=red").json["parameter"] == "colour"


def test_events_of_a_job_come_in_pages_in_the_order_of_their_meaning(local: Service) -> None:
    same = [event_dict(kind, run=RUN, at=5) for kind in ("canceled", "progress", "started", "metric", "error")]
    local.send(same + [event_dict("progress", run=RUN, at=n) for n in range(8)])
    paged = local.all_items(f"/v1/jobs/{RUN}/events?limit=2")
    assert len({each["idempotency_key"] for each in paged}) == len(paged) == 13
    rank = {"started": 0, "progress": 1, "metric": 1}
    order = [(each["at"], rank.get(each["kind"], 2), each["idempotency_key"]) for each in paged]
    assert order == sorted(order)
    other = local.get(f"/v1/jobs/{RUN}/events?limit=2").json["next_cursor"]
    local.send([event_dict(run=str(uuid.UUID(int=78)))])
    assert local.get(f"/v1/jobs/{uuid.UUID(int=78)}/events?cursor={other}").json["parameter"] == "cursor"


def test_csv_and_ndjson_hold_the_same_rows_as_the_list(local: Service) -> None:
    odd = 'a "quoted", name\\with %s and\ttab'
    local.send([*life(app_name=odd), *life(app_name="etch"), event_dict("error", app_name="etch", business_key=odd)])
    listed = local.get("/v1/jobs?order=started_at").json["items"]
    lines = local.get("/v1/jobs?order=started_at&format=ndjson")
    assert lines.headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in lines.body.splitlines()]
    assert [list(row) for row in rows] == [list(row) for row in listed]
    for row, item in zip(rows, listed, strict=True):
        assert datetime.fromisoformat(row.pop("started_at")) == datetime.fromisoformat(item.pop("started_at"))
        assert {k: row[k] for k in ("job_id", "app_name", "status", "metadata", "duration_s", "metrics")} == {
            k: item[k] for k in ("job_id", "app_name", "status", "metadata", "duration_s", "metrics")
        }
    table = local.ask("GET", "/v1/jobs?order=started_at", headers={"accept": "text/csv"})
    assert table.headers["content-type"].startswith("text/csv")
    read = list(csv.DictReader(io.StringIO(table.body.decode())))
    assert [row["app_name"] for row in read] == [item["app_name"] for item in listed]
    assert [row["job_key"] for row in read] == [item["job_key"] for item in listed]


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_an_export_obeys_every_filter(local: Service, form: str) -> None:
    local.send([*life(RUN, app_name="etch_1%"), event_dict("error", app_name="etch"), event_dict(at=60)])
    app = "7f6a0d0c-55f1-5d0c-9d50-3f6d5fb1a001"
    for query in (
        *("app_name=h_1%25", "status=failed,running", "status=!failed", f"app_id={app}", "key=LOT-4711", "limit=1"),
        *("metadata.tool=ETCH-07", "metadata.x'y=%27;--", "stale=true", "from=2026-10-19T12:00:30Z"),
        "to=2026-10-19T12:00:30Z&order=-duration_s",
    ):
        wanted = [item["job_id"] for item in local.get(f"/v1/jobs?{query}").json["items"]]
        body = local.get(f"/v1/jobs?{query}&format={form}").body.decode()
        rows = list(csv.DictReader(io.StringIO(body))) if form == "csv" else [json.loads(x) for x in body.splitlines()]
        assert [row["job_id"] for row in rows] == wanted, query


def test_an_export_has_no_limit_unless_it_is_asked_for(local: Service) -> None:
    local.send([event_dict() for _ in range(2500)])
    assert local.get("/v1/jobs?format=ndjson").body.count(b"\n") == 2500
    assert local.get("/v1/jobs?format=ndjson&limit=7").body.count(b"\n") == 7
    assert local.get("/v1/jobs").json["count"] == 1000
    refused = local.get("/v1/jobs?format=xml")
    assert (refused.status, refused.json["parameter"]) == (422, "format")
    assert local.get("/v1/jobs?format=csv&colour=red").status == 422


def test_a_count_is_bounded_and_says_so(local: Service) -> None:
    local.send([event_dict() for _ in range(30)])
    answer = local.get("/v1/jobs?limit=10&count=true").json
    assert (answer["count"], answer["total"], answer["total_exact"]) == (10, 30, True)
    assert local.get("/v1/jobs?count=maybe").json["parameter"] == "count"
    assert "total" not in local.get("/v1/jobs").json


def test_apps_with_versions_statuses_and_durations(local: Service) -> None:
    now = datetime.now(UTC)
    local.send(
        [
            each
            for n, version in enumerate(("1.0", "1.1"))
            for each in life(begin=(now.timestamp() - 400 + n) - NOON_SECONDS, version=version)
        ]
    )
    (app,) = local.get("/v1/apps").json["items"]
    assert (app["app_name"], app["versions"], app["jobs"]) == ("recipe-runner", ["1.0", "1.1"], 2)
    assert app["by_status"] == {"running": 0, "succeeded": 2, "failed": 0, "canceled": 0}
    assert (app["duration_p50_s"], app["duration_p95_s"]) == (300.5, 300.5)
    assert local.get("/v1/apps?from=2100-01-01").json["items"] == []


def test_stats_by_bucket_and_status(local: Service) -> None:
    local.send([*life(begin=0), *life(begin=10), event_dict("error", at=20), *life(begin=3600)])
    window = "from=2026-10-19T12:00:00Z&to=2026-10-19T14:00:00Z"
    first, second = local.get(f"/v1/stats?{window}&bucket=1h").json["items"]
    assert (first["bucket"], first["count"], first["succeeded"], first["failed"]) == ("2026-10-19T12:00:00Z", 3, 2, 1)
    assert first["failure_ratio"] == pytest.approx(1 / 3, abs=1e-6)
    assert (first["duration_p50_s"], first["mem_max_mb"], second["count"]) == (300.5, 2048.5, 1)
    by = local.get(f"/v1/stats?{window}&bucket=1h&by=status").json["items"]
    assert [(row["by"], row["count"]) for row in by] == [("failed", 1), ("succeeded", 2), ("succeeded", 1)]
    for query, name in (("bucket=1y", "bucket"), ("by=colour", "by"), ("bucket=1s", "bucket"), ("x=1", "x")):
        assert local.get(f"/v1/stats?{window}&{query}").json["parameter"] == name
    assert local.get("/v1/stats?from=2026-01-02&to=2026-01-01").json["parameter"] == "from"
    assert local.get("/v1/stats?to=0001-01-01").json["parameter"] == "to"
    assert local.get("/v1/stats?to=2026-01-01&to=2026-01-02").json["parameter"] == "to"
    assert (first["cpu_s"], first["cpu_p50_s"], first["mem_p95_mb"]) == (261.0, 130.5, 2048.5)


def test_a_reader_that_goes_ends_its_query_in_the_database(local: Service, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as watcher, psycopg.connect(database_url) as blocker:
        blocker.execute("lock table job in access exclusive mode")
        with socket.create_connection(("127.0.0.1", local.port)) as reader:
            reader.sendall(b"GET /v1/jobs HTTP/1.1\r\nhost: x\r\n\r\n")
            eventually(lambda: _waiting(watcher) == 1)
        eventually(lambda: _waiting(watcher) == 0)
        blocker.rollback()
    assert local.get("/v1/jobs").status == 200


def _waiting(watcher: psycopg.Connection) -> int:
    """The lists that wait for the lock; upkeep may wait for it as well."""
    text = (
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        " and query like '%cursor_value%'"
    )
    row = watcher.execute(text).fetchone()
    assert row is not None
    return int(row[0])


NOON_SECONDS = datetime(2026, 10, 19, 12, tzinfo=UTC).timestamp()
