"""Contract section 5, as far as a list of jobs goes, over HTTP on a real `local`."""

import json
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.fixtures.roles import Service
from tests.make import NOON, event_dict, life


@pytest.fixture
def fab(local: Service) -> Service:
    """Six jobs, one a minute: two succeeded, failed, canceled, running, running; the first has two subjobs."""
    runs = [str(uuid.UUID(int=n + 1)) for n in range(6)]
    events = [*life(runs[0], 0, business_key="LOT-1"), *life(runs[1], 60, app_name="nightly_100%")]
    for n, (kind, app) in enumerate([("error", "etch"), ("canceled", "etch"), ("progress", "METRO"), ("metric", "x")]):
        events.append(event_dict("started", run=runs[n + 2], at=60 * (n + 2), app_name=app, version=None))
        events.append(event_dict(kind, run=runs[n + 2], at=60 * (n + 2) + 30, app_name=app, version=None))
    for n in (1, 2):
        events += life(str(uuid.UUID(int=100 + n)), n, parent=runs[0], sub_key=f"wafer-0{n}", business_key="LOT-1")
    assert local.send(events).json["stored"] == len(events)
    return local


def ids(fab: Service, **asked: Any) -> list[int]:
    reply = fab.get("/v1/jobs?" + urlencode({name.rstrip("_"): value for name, value in asked.items()}))
    assert reply.status == 200, reply.body
    return [uuid.UUID(item["job_id"]).int - 1 for item in reply.json["items"]]


def test_newest_first_and_every_filter_of_the_seed(fab: Service) -> None:
    assert ids(fab) == [5, 4, 3, 2, 1, 0]
    assert ids(fab, status="failed,canceled") == [3, 2]
    assert ids(fab, status="!running") == [3, 2, 1, 0]
    assert ids(fab, app_name="ETCH") == [3, 2]
    assert ids(fab, limit=2) == [5, 4]
    assert ids(fab, from_=f"{NOON:%Y-%m-%dT%H:%M}:00Z", to=f"{NOON:%Y-%m-%dT%H}:02:00") == [1, 0]


def test_percent_and_underscore_in_a_name_are_plain_characters(fab: Service) -> None:
    assert ids(fab, app_name="y_100%") == [1]
    assert ids(fab, app_name="%") == [1]
    assert ids(fab, app_name="n_ghtly") == []
    assert ids(fab, app_name="\\") == []


def test_a_time_may_carry_an_offset_even_with_a_lost_plus(fab: Service) -> None:
    reply = fab.get("/v1/jobs?from=2026-10-19T14:03:00+02:00")
    assert [item["status"] for item in reply.json["items"]] == ["running", "running", "canceled"]


def test_further_filters(fab: Service) -> None:
    assert ids(fab, key="LOT-1") == [0]
    assert ids(fab, key_prefix="LOT-4") == [5, 4, 3, 2, 1]
    assert ids(fab, **{"metadata.tool": "ETCH-07"}) == [1, 0]
    assert ids(fab, **{"metadata.tool": "!ETCH-07"}) == [5, 4, 3, 2]
    assert ids(fab, site_id="fab1", app_id="7f6a0d0c-55f1-5d0c-9d50-3f6d5fb1a001", status="running") == [5, 4]
    assert ids(fab, time_field="active", from_="2026-10-19T12:05:45Z", to="2026-10-19T12:06:00Z") == [5, 4, 1]
    assert ids(fab, time_field="ended_at", to="2026-10-19T12:04:00Z") == [3, 2]
    assert ids(fab, stale="true") == [5, 4]


def test_metadata_is_compared_as_text_and_as_what_it_spells(local: Service) -> None:
    facts: list[object] = [5, "5", 5.5, True, "true", None, {"a": 1}, "x"]
    local.send([event_dict(run=str(uuid.UUID(int=n + 1)), at=-n, metadata={"v": fact}) for n, fact in enumerate(facts)])
    for value, wanted in (
        ("5", [0, 1]),
        ("5.5", [2]),
        ("true", [3, 4]),
        ("null", [5]),
        ("x", [7]),
        ('"x"', []),
        ("{}", []),
    ):
        assert ids(local, **{"metadata.v": value}) == wanted, value
    assert ids(local, **{"metadata.v": "!5"}) == [2, 3, 4, 5, 6, 7]


def test_subjobs_look_like_jobs(fab: Service) -> None:
    answer = fab.get(f"/v1/subjobs?job_id={uuid.UUID(int=1)}").json
    assert [item["sub_key"] for item in answer["items"]] == ["wafer-02", "wafer-01"]
    assert {item["job_id"] for item in answer["items"]} == {str(uuid.UUID(int=1))}
    assert fab.get("/v1/subjobs?key=wafer-01").json["count"] == 1


def test_pages_hold_every_row_once_in_any_order(fab: Service) -> None:
    for column in (
        "started_at",
        "ended_at",
        "duration_s",
        "cpu_user_s",
        "status",
        "app_name",
        "event_count",
        "job_key",
    ):
        for order in (column, "-" + column):
            whole = fab.get(f"/v1/jobs?order={order}").json
            paged = [item["job_id"] for item in fab.all_items(f"/v1/jobs?order={order}&limit=2")]
            assert paged == [item["job_id"] for item in whole["items"]], order
            assert (len(set(paged)), whole["next_cursor"]) == (6, None)


WRONG = {
    "colour=red": "colour",
    "limit=0": "limit",
    "limit=10001": "limit",
    "limit=ten": "limit",
    "limit=00000000199999999": "limit",
    "limit=1" + "0" * 5000: "limit",
    "limit=²": "limit",
    "from=yesterday": "from",
    "to=2026-13-01": "to",
    "from=0001-01-01T00:00:00%2B12:00": "from",
    "from=2026-10-20&to=2026-10-19": "from",
    "status=done": "status",
    "status=": "status",
    "order=id": "order",
    "order=started_at;drop table job": "order",
    "time_field=at": "time_field",
    "site_id=a b": "site_id",
    "app_id=1": "app_id",
    "job_id=1": "job_id",
    "stale=yes": "stale",
    "limit=1&limit=2": "limit",
    "cursor=xxxx": "cursor",
    "cursor=WyJhIiwiYiIsImMiXQ": "cursor",
    "app_name=%00": "app_name",
    "key=" + "x" * 100_000: "query string",
}


def test_a_bad_parameter_is_422_and_named(fab: Service) -> None:
    for query, name in WRONG.items():
        reply = fab.get("/v1/jobs?" + quote(query, safe="=&%"))
        if len(query) > 60_000 and reply.status != 422:
            assert reply.status in (400, 414, 431)  # the HTTP server's own bound came first
            continue
        assert (reply.status, reply.json["code"], reply.json["parameter"]) == (422, "bad_parameter", name), query[:60]


def test_sql_in_every_parameter_finds_nothing_and_breaks_nothing(fab: Service) -> None:
    attack = "x' or 1=1; drop table event; --"
    for name in ("app_name", "key", "key_prefix", "metadata.tool", f"metadata.{attack}", "metadata.%(x)s"):
        assert ids(fab, **{name: attack}) == []
    assert ids(fab) == [5, 4, 3, 2, 1, 0]


def test_a_cursor_of_another_question_is_refused(fab: Service) -> None:
    cursor = fab.get("/v1/jobs?limit=2").json["next_cursor"]
    assert fab.get(f"/v1/jobs?limit=5&cursor={cursor}").status == 200
    for other in ("status=failed", "order=started_at"):
        assert fab.get(f"/v1/jobs?{other}&cursor={cursor}").json["parameter"] == "cursor"
    assert fab.get(f"/v1/subjobs?limit=5&cursor={cursor}").json["parameter"] == "cursor"


def test_a_cursor_that_somebody_wrote_is_refused_or_finds_nothing_wrong(fab: Service) -> None:
    everything = set(ids(fab))
    forged: dict[str, list[object]] = {
        "-started_at": [None, 5, [], "x", "2026-01-01", "2026-10-19T12:00:00+99:00"],
        "event_count": ["9" * 30, "1.5", None],
        "duration_s": ["nan", "inf", "1e999", {}],
        "job_key": ["a\0", 7],
    }
    for order, value in ((order, value) for order, values in forged.items() for value in values):
        mark, _, row = _opened(fab.get(f"/v1/jobs?order={order}&limit=1").json["next_cursor"])
        for form in ("json", "csv"):
            reply = fab.get(f"/v1/jobs?order={order}&format={form}&cursor={_closed([mark, value, row])}")
            assert (reply.status, reply.json["parameter"]) == (422, "cursor"), (order, value, form)
    mark, _, row = _opened(fab.get("/v1/jobs?order=app_name&limit=1").json["next_cursor"])
    assert set(ids(fab, order="app_name", cursor=_closed([mark, "x' or 1=1; --", row]))) < everything


def _opened(cursor: str) -> list[object]:
    found: list[object] = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    return found


def _closed(fields: list[object]) -> str:
    return urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


def test_the_form_follows_the_weights_of_accept(fab: Service) -> None:
    for accept, kind in (
        ("text/csv;q=0.5, application/json", "application/json"),
        ("text/csv, application/json;q=0.9", "text/csv"),
        ("text/html, */*", "application/json"),
        ("application/x-ndjson", "application/x-ndjson"),
    ):
        reply = fab.ask("GET", "/v1/jobs", headers={"accept": accept})
        assert reply.headers["content-type"].startswith(kind), accept
    subjobs = fab.get(f"/v1/jobs/{uuid.UUID(int=1)}/subjobs?format=csv")
    assert (subjobs.headers["content-type"][:8], subjobs.body.count(b"\n")) == ("text/csv", 3)
