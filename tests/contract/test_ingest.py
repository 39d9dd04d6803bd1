"""Contract sections 2 and 4, over HTTP, on a real `local`: what is taken, what is refused, and in which words."""

import gzip
import json
import socket
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.roles import Reply, Service
from tests.make import event_dict, life

ONE, BATCH = "/v1/ingest/events", "/v1/ingest/events:batch"

Change = Callable[[dict[str, Any]], object]


def test_the_example_of_the_seed_is_taken_and_shown_with_every_key_of_the_seed(local: Service) -> None:
    event = event_dict(at="2025-10-19T12:00:00Z", status="running", business_key="batch-123")
    reply = local.post(ONE, event)
    assert (reply.status, reply.json) == (200, {"ok": True})
    answer = local.get("/v1/jobs").json
    assert set(answer) >= {"items", "count", "duration_s"}
    assert set(answer["items"][0]) >= {
        *("job_id", "app_id", "app_name", "app_version", "site_id", "job_key", "status", "started_at", "ended_at"),
        *("duration_s", "cpu_user_s", "cpu_system_s", "mem_max_mb", "metadata", "inserted_at"),
    }
    assert answer["items"][0]["started_at"] == "2025-10-19T12:00:00Z"


def test_a_repeat_is_a_duplicate_and_no_error(local: Service) -> None:
    event = event_dict()
    local.post(ONE, event)
    assert local.post(ONE, event | {"app": {**event["app"], "name": "another"}}).json == {"ok": True, "duplicate": True}
    answer = local.send([event, event_dict()]).json
    assert (answer["stored"], answer["duplicates"], answer["rejected"]) == (1, 1, [])


def test_a_batch_is_judged_event_by_event(local: Service) -> None:
    bad = event_dict()
    del bad["site_id"]
    some = local.send([event_dict(), bad, event_dict(), 7, event_dict()])  # type: ignore[list-item]
    assert (some.status, some.json["ok"], some.json["stored"]) == (207, False, 3)
    assert [(each["index"], each["code"]) for each in some.json["rejected"]] == [
        (1, "missing_field"),
        (3, "not_an_object"),
    ]
    assert local.send([bad]).status == 422
    assert local.send([]).json == {"ok": True, "stored": 0, "duplicates": 0, "spooled": 0, "rejected": []}


RULES: dict[str, tuple[str, Change]] = {
    "no site": ("missing_field", lambda e: e.pop("site_id")),
    "no app name": ("missing_field", lambda e: e["app"].pop("name")),
    "no event": ("missing_field", lambda e: e.pop("event")),
    "site with a slash": ("bad_site_id", lambda e: e.update(site_id="fab/1")),
    "site with a line break": ("bad_site_id", lambda e: e.update(site_id="fab1\n")),
    "site of 65 characters": ("bad_site_id", lambda e: e.update(site_id="x" * 65)),
    "another site": ("wrong_site", lambda e: e.update(site_id="fab2")),
    "key that is no UUID": ("bad_idempotency_key", lambda e: e.update(idempotency_key="1")),
    "app id that is no UUID": ("bad_app_id", lambda e: e["app"].update(app_id=5)),
    "empty app name": ("bad_app_name", lambda e: e["app"].update(name="")),
    "app name of 501 characters": ("too_long", lambda e: e["app"].update(name="x" * 501)),
    "version that is a number": ("bad_app_version", lambda e: e["app"].update(version=1.0)),
    "unknown type": ("bad_type", lambda e: e["entity"].update(type="wafer")),
    "id that is no UUID": ("bad_id", lambda e: e["entity"].update(id="x")),
    "parent that is no UUID": ("bad_parent_id", lambda e: e["entity"].update(parent_id="x")),
    "subjob without a parent": ("parent_id_required", lambda e: e["entity"].update(type="subjob")),
    "business key of 501 characters": ("too_long", lambda e: e["entity"].update(business_key="x" * 501)),
    "sub key that is a list": ("bad_sub_key", lambda e: e["entity"].update(sub_key=[])),
    "unknown kind": ("bad_kind", lambda e: e["event"].update(kind="begun")),
    "unknown status": ("bad_status", lambda e: e["event"].update(status="done")),
    "time without an offset": ("bad_at", lambda e: e["event"].update(at="2025-10-19T12:00:00")),
    "time that is a number": ("bad_at", lambda e: e["event"].update(at=1760875200)),
    "year 9999": ("at_out_of_range", lambda e: e["event"].update(at="9999-12-31T23:59:59Z")),
    "year -1": ("bad_at", lambda e: e["event"].update(at="-001-01-01T00:00:00Z")),
    "25 hours ahead": ("at_too_far_ahead", lambda e: e["event"].update(at=_ahead(25))),
    "metric that is text": ("bad_metrics", lambda e: e["event"].update(metrics={"a": "1"})),
    "metric that is 1e400": ("bad_metrics", lambda e: e["event"].update(metrics={"a": "@1e400@"})),
    "metadata with 1e400": ("bad_metadata", lambda e: e["event"].update(metadata={"a": ["@1e400@"]})),
    "metadata with 5,000 digits": ("bad_metadata", lambda e: e["event"].update(metadata={"a": "@" + "9" * 5000 + "@"})),
    "65 metrics": ("too_many_metrics", lambda e: e["event"].update(metrics={str(n): n for n in range(65)})),
    "metadata that is a list": ("bad_metadata", lambda e: e["event"].update(metadata=[1])),
    "metadata of 65 KiB": ("metadata_too_large", lambda e: e["event"].update(metadata={"a": "x" * 66_000})),
    "metadata nested deeply": (
        "too_deep",
        lambda e: e["event"].update(metadata={"a": "@" + "[" * 9000 + "]" * 9000 + "@"}),
    ),
    "metadata nested 65 deep": (
        "too_deep",
        lambda e: e["event"].update(metadata={"a": "@" + "[" * 62 + "]" * 62 + "@"}),
    ),
    "an unknown field nested 65 deep": ("too_deep", lambda e: e.update(more="@" + "[" * 64 + "]" * 64 + "@")),
    "NUL in a value": ("nul_character", lambda e: e["event"].update(metadata={"a": [{"b": "x\0"}]})),
    "NUL in a name": ("nul_character", lambda e: e["app"].update(name="a\0b")),
    "finished and running": ("status_kind_mismatch", lambda e: e["event"].update(kind="finished", status="running")),
    "canceled and failed": ("status_kind_mismatch", lambda e: e["event"].update(kind="canceled", status="failed")),
}


def _ahead(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


def _json(value: Any) -> bytes:
    """As JSON; a string between two @ becomes what stands there, for what Python's encoder would not write."""
    return json.dumps(value).replace('"@', "").replace('@"', "").encode()


@pytest.mark.one_lane
def test_every_rule_has_its_code_alone_and_in_a_batch(local: Service) -> None:
    failures = []
    for name, (code, change) in RULES.items():
        event = event_dict()
        change(event)
        body = _json(event)
        one, batch = local.post(ONE, body), local.post(BATCH, b"[" + body + b"]")
        # What is too deep for the parser itself is refused with its batch: nobody can tell where it ends.
        in_batch = batch.json if "deeply" in name else batch.json["rejected"][0]
        found = (one.status, one.json["code"], batch.status, in_batch["code"])
        if found != (422, code, 422, code):
            failures.append((name, found))
        assert one.headers["content-type"] == "application/problem+json"
        assert set(one.json) >= {"type", "title", "status", "detail", "instance", "code"}
    assert not failures
    assert local.get("/v1/jobs").json["count"] == 0


@pytest.mark.one_lane
def test_a_word_that_is_none_of_the_few_is_refused_with_them(local: Service) -> None:
    for part, field, words in (
        ("event", "kind", "started, progress, "),
        ("event", "status", "running, "),
        ("entity", "type", "job, subjob"),
    ):
        event = event_dict()
        event[part][field] = "startd"
        detail = local.post(ONE, _json(event)).json["detail"]
        assert detail.startswith(f"{part}.{field}: Invalid enum value 'startd'; it is one of {words}"), detail


def test_metadata_nested_64_deep_with_brackets_in_its_text_is_taken(local: Service) -> None:
    metadata = {"a": "@" + "[" * 61 + "]" * 61 + "@", "b": "[{" * 100, "c": 'x"[[' * 50}
    assert local.post(BATCH, b"[" + _json(event_dict(metadata=metadata)) + b"]").json["stored"] == 1


def test_a_time_less_than_a_day_ahead_and_any_past_is_taken(local: Service) -> None:
    events = [event_dict(at=at) for at in (_ahead(23.9), "1970-01-01T00:00:00Z", "0001-06-01T00:00:00+05:30")]
    assert local.send(events).json["stored"] == 3
    shown = {item["started_at"] for item in local.get("/v1/jobs").json["items"]}
    assert {"1970-01-01T00:00:00Z", "0001-05-31T18:30:00Z"} <= shown


BODIES: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "no JSON": (b"[{", {}, 400, "not_json"),
    "empty": (b"", {}, 400, "not_json"),
    "NaN": (b'[{"a":NaN}]', {}, 400, "not_json"),
    "lone surrogate": (b'["\\ud800"]', {}, 400, "not_json"),
    "lone low surrogate": (b'[{"a":"\\udc00x"}]', {}, 400, "not_json"),
    "not an array": (b"{}", {}, 400, "not_an_array"),
    "text": (b'"x"', {}, 400, "not_an_array"),
    "depth 10,000": (b"[" * 10_000 + b"]" * 10_000, {}, 422, "too_deep"),
    "10,001 events": (b"[" + b",".join([b"1"] * 10_001) + b"]", {}, 413, "too_many_events"),
    "unknown encoding": (b"[]", {"content-encoding": "br"}, 415, "bad_encoding"),
    "no gzip": (b"[]", {"content-encoding": "gzip"}, 415, "bad_encoding"),
    "gzip cut short": (gzip.compress(b"[]" * 100)[:-9], {"content-encoding": "gzip"}, 415, "bad_encoding"),
    "gzip bomb": (gzip.compress(b" " * 40_000_000), {"content-encoding": "gzip"}, 413, "body_too_large"),
}


@pytest.mark.one_lane
def test_a_body_that_is_no_batch(local: Service) -> None:
    for name, (body, headers, status, code) in BODIES.items():
        reply = local.post(BATCH, body, headers)
        assert (reply.status, reply.json["code"]) == (status, code), name


@pytest.mark.one_lane
def test_bytes_that_are_no_utf8_are_refused(local: Service) -> None:
    body = _json(event_dict(app_name="Z")).replace(b'"Z"', b'"\xff"')
    assert local.post(ONE, body).status == 400
    reply = local.post(BATCH, b"[" + body + b"]")
    assert (reply.status, reply.json["rejected"][0]["code"]) == (422, "not_json")


@pytest.mark.one_lane
def test_a_body_beyond_its_limit_is_413(local: Service) -> None:
    assert _status_of_large(local, BATCH, 16 * 1024 * 1024 + 1) == 413
    assert _status_of_large(local, ONE, 1024 * 1024 + 1) == 413
    too_large = event_dict(metadata={})
    too_large["more"] = "x" * (1024 * 1024)
    assert local.send([too_large, event_dict()]).json["rejected"][0]["code"] == "event_too_large"


@pytest.mark.one_lane
def test_of_a_body_that_is_cut_in_the_middle_nothing_is_stored(local: Service) -> None:
    body = _json(life())
    for path, sent in ((BATCH, body[:-9]), (ONE, body[1:400]), (BATCH, b"["), (ONE, b"")):
        with socket.create_connection(("127.0.0.1", local.port), 10) as caller:
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            caller.sendall(head.encode() + sent)
            caller.shutdown(socket.SHUT_WR)
            assert caller.recv(1) == b""
    assert local.send([event_dict()]).json["stored"] == 1
    assert local.get("/v1/jobs").json["count"] == 1


def test_gzip_is_taken(local: Service) -> None:
    events = life()
    reply = local.post(BATCH, gzip.compress(_json(events)), {"content-encoding": "gzip"})
    assert reply.json["stored"] == len(events)


@pytest.mark.one_lane
def test_unknown_routes_and_methods_are_problems(local: Service) -> None:
    for method, path, status, code in (
        ("GET", "/v1/nothing", 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", ONE, 405, "method_not_allowed"),
    ):
        reply = local.ask(method, path)
        assert (reply.status, reply.json["code"], reply.json["instance"]) == (status, code, path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
PATHS = [("site_id",), ("app",), ("app", "name"), ("entity",), ("entity", "id"), ("event",), ("event", "at"),
         ("event", "metrics"), ("event", "metadata"), ("idempotency_key",), ("event", "status")]  # fmt: skip


@settings(max_examples=150)
@given(path=st.sampled_from(PATHS), value=JSON, whole=JSON)
def test_random_json_never_gets_a_5xx(local: Service, path: tuple[str, ...], value: Any, whole: Any) -> None:
    event = event_dict()
    inner = event if len(path) == 1 else event[path[0]]
    inner[path[-1]] = value
    for reply in (local.post(ONE, event), local.send([event, event_dict()]), local.post(BATCH, whole)):
        assert reply.status in (200, 207, 400, 422), (reply.status, reply.body)


def test_neighbours_of_a_bad_event_in_other_requests_are_unharmed(local: Service) -> None:
    bad = event_dict(metadata={"a": "\0"})
    with ThreadPoolExecutor(8) as threads:
        replies: list[Reply] = list(
            threads.map(lambda n: local.post(ONE, bad if n % 3 == 0 else event_dict(key=str(uuid.uuid4()))), range(60))
        )
    assert [reply.status for reply in replies] == [422 if n % 3 == 0 else 200 for n in range(60)]
    assert local.get("/v1/jobs").json["count"] == 40


def _status_of_large(local: Service, path: str, size: int) -> int:
    """A server may answer before it has read everything; the answer then comes with a connection that breaks."""
    try:
        return local.post(path, b" " * size).status
    except (BrokenPipeError, ConnectionResetError):
        return 413
