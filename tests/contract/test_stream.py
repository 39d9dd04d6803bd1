"""Contract section 6 on a real `local`, over a socket."""

import signal
import socket
import time
import uuid

import psycopg
import pytest

from fabmon.store.changes import read_position
from tests.fixtures.roles import Service, StartRole, eventually
from tests.fixtures.sse import open_stream
from tests.fixtures.timing import in_time
from tests.make import event_dict, life


def test_events_come_as_data_with_an_id_and_no_name(local: Service) -> None:
    run = str(uuid.uuid4())
    with open_stream(local) as stream:
        assert "200 OK" in stream.head
        assert "text/event-stream" in stream.head
        sent = life(run)
        local.send(sent)
        got = stream.take(4)
    assert [each["idempotency_key"] for each in got] == [each["idempotency_key"] for each in sent]
    assert set(got[0]) == {
        *("at", "entity_type", "entity_id", "parent_id", "app_id", "app_name", "site_id", "kind", "status", "key"),
        *("metrics", "metadata", "idempotency_key", "stored_at"),
    }
    assert (got[0]["entity_id"], got[0]["key"], got[0]["metadata"]) == (run, "LOT-4711", {"tool": "ETCH-07"})


def test_a_reader_resumes_without_gap_or_repeat_also_after_a_restart(local: Service) -> None:
    keys = []
    with open_stream(local) as stream:
        local.send([event_dict() for _ in range(5)])
        keys += [each["idempotency_key"] for each in stream.take(3)]
        last = stream.last_id
    local.send([event_dict() for _ in range(3)])
    assert local.stop() == 0
    local.start()
    local.send([event_dict() for _ in range(2)])
    with open_stream(local, last_event_id=last) as stream:
        local.send([event_dict() for _ in range(4)])
        keys += [each["idempotency_key"] for each in stream.take(11)]
    assert len(set(keys)) == len(keys) == 14
    assert local.get("/v1/jobs").json["count"] == 14


def test_a_reader_goes_on_at_another_local_of_the_site(local: Service, make_role: StartRole, database_url: str) -> None:
    other = make_role("local", FABMON_DATABASE_URL=database_url, FABMON_SITE_ID="fab1").start()
    with open_stream(local) as stream:
        other.send([event_dict(app_name="from-the-other")])
        assert stream.next()["app_name"] == "from-the-other"
        last = stream.last_id
    local.send([event_dict(app_name="meanwhile")])
    with open_stream(other, f"?last_event_id={last}") as stream:
        assert stream.next()["app_name"] == "meanwhile"


@pytest.mark.one_lane
def test_commits_at_another_local_wake_the_readers_here(
    local: Service, make_role: StartRole, database_url: str
) -> None:
    other = make_role("local", FABMON_DATABASE_URL=database_url, FABMON_SITE_ID="fab1").start()
    with open_stream(local) as stream, psycopg.connect(database_url, autocommit=True) as database:
        eventually(lambda: _listeners(database))
        other.send([event_dict()])  # finds out that somebody listens
        stream.next()
        time.sleep(1.1)

        def ten_events() -> float:
            begun = time.monotonic()
            for _ in range(10):
                other.send([event_dict()])
                stream.next()
            return time.monotonic() - begun

        # Each is sent just after the feed was read: found by the poll alone, they would take half a second each.
        in_time(2.5, ten_events)

        database.execute("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")
        eventually(lambda: "stream.deaf" in local.log)
        other.send([event_dict(app_name="found by the poll")])
        assert stream.next()["app_name"] == "found by the poll"
    assert other.stop() == 0


@pytest.mark.one_lane
def test_a_reader_is_not_too_slow_while_it_reads_what_it_missed(local: Service) -> None:
    with open_stream(local) as stream:
        local.send([event_dict()])
        stream.next()
        last = stream.last_id
    missed = [event_dict(metadata={"filler": "x" * 2000}) for _ in range(4000)]
    local.send(missed)
    with open_stream(local, last_event_id=last) as late:  # takes a little of it, and stops
        for _ in range(3):
            local.send([event_dict() for _ in range(4000)])  # more than may wait for a reader
        keys = [each["idempotency_key"] for each in late.take(16_000)]
    assert len(set(keys)) == 16_000
    assert keys[:4000] == [each["idempotency_key"] for each in missed]


@pytest.mark.one_lane
def test_a_browser_finds_what_it_needs(local: Service) -> None:
    with open_stream(local) as stream:
        head = stream.head.lower()
        assert "content-type: text/event-stream; charset=utf-8" in head
        assert "cache-control: no-store" in head
        assert "x-accel-buffering: no" in head  # a proxy in between passes on what comes
        assert "access-control-" not in head  # a page of another origin may not read
        _, retry, comment, place = (stream.line() for _ in range(4))
        assert (retry, comment, place[:4]) == (b"retry: 2000\n", b": fabmon\n", b"id: ")
    preflight = {"origin": "http://x", "access-control-request-method": "GET"}
    assert local.ask("OPTIONS", "/v1/stream", headers=preflight).status == 405


@pytest.mark.one_lane
def test_filters_are_applied_here(local: Service) -> None:
    run, wafer = str(uuid.uuid4()), str(uuid.uuid4())
    with (
        open_stream(local, "?kind=finished,error&app_name=ETCH") as ends,
        open_stream(local, f"?job_id={run}") as one_job,
        open_stream(local, "?entity_type=subjob&status=running") as wafers,
    ):
        local.send(
            [
                event_dict("started", run=run, app_name="etch"),
                event_dict("started", run=wafer, parent=run),
                event_dict("finished", run=run, app_name="etch", at=5),
                event_dict("finished"),
            ]
        )
        assert ends.next()["entity_id"] == run
        assert [each["entity_id"] for each in one_job.take(3)] == [run, wafer, run]
        assert wafers.next()["entity_id"] == wafer


@pytest.mark.one_lane
def test_a_bad_filter_or_id_is_named(local: Service) -> None:
    assert local.get("/v1/stream?colour=red").json["parameter"] == "colour"
    assert local.get("/v1/stream?last_event_id=1").json["parameter"] == "last_event_id"
    assert local.get("/v1/stream?kind=begun").json["parameter"] == "kind"
    assert local.get("/v1/stream?kind=error&kind=started").json["parameter"] == "kind"
    assert local.get("/v1/stream?site_id=fab%201").json["parameter"] == "site_id"
    assert local.get("/v1/stream?job_id=1").json["parameter"] == "job_id"
    assert local.get("/v1/stream?app_name=%00").json["parameter"] == "app_name"


@pytest.mark.one_lane
def test_too_many_readers_are_told_so(make_role: StartRole, database_url: str) -> None:
    local = make_role("local", FABMON_DATABASE_URL=database_url, FABMON_STREAM_MAX_READERS="1").start()
    with open_stream(local):
        reply = local.get("/v1/stream")
        assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (503, "overloaded", "5")
    eventually(lambda: "200 OK" in _head(local))


@pytest.mark.one_lane
def test_a_reader_that_does_not_read_is_cut_off_without_harm_to_others(local: Service) -> None:
    with open_stream(local) as good, socket.create_connection(("127.0.0.1", local.port)) as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.sendall(b"GET /v1/stream HTTP/1.1\r\nhost: x\r\n\r\n")
        eventually(lambda: _readers(local) == 2)
        sent, got = 0, []
        while _readers(local) == 2:
            assert sent < 60_000
            sent += local.send([event_dict(metadata={"filler": "x" * 200}) for _ in range(2000)]).json["stored"]
            got = good.take(2000)
        assert len({each["idempotency_key"] for each in got}) == 2000


@pytest.mark.one_lane
def test_open_streams_do_not_hold_up_the_stop(make_role: StartRole, database_url: str) -> None:
    local = make_role("local", FABMON_DATABASE_URL=database_url, FABMON_STOP_TIMEOUT_S="60").start()
    with open_stream(local):
        local.signal(signal.SIGTERM)
        assert local.wait() == 0


def test_the_id_moves_on_with_what_the_filters_leave_out(local: Service) -> None:
    with open_stream(local, "?status=failed") as stream, open_stream(local) as all_events:
        local.send([event_dict() for _ in range(5)])
        all_events.take(5)
        local.send([event_dict("error")])
        assert stream.next()["status"] == "failed"
        assert read_position(stream.last_id) > read_position(all_events.last_id)  # type: ignore[operator]


def test_a_reader_that_resumes_gets_what_came_while_it_was_away_and_nobody_read(local: Service) -> None:
    with open_stream(local) as stream:
        local.send([event_dict()])
        stream.next()
        last = stream.last_id
    eventually(lambda: _readers(local) == 0)
    sent = [event_dict() for _ in range(3)]
    local.send(sent)
    with open_stream(local, last_event_id=last) as stream:
        assert [each["idempotency_key"] for each in stream.take(3)] == [each["idempotency_key"] for each in sent]


def test_an_id_that_lies_ahead_of_the_database_is_refused(local: Service) -> None:
    reply = local.get("/v1/stream?last_event_id=99999999999-1")
    assert (reply.status, reply.json["parameter"]) == (422, "last_event_id")


def _listeners(database: psycopg.Connection) -> int:
    row = database.execute("select count(*) from pg_locks where locktype = 'advisory' and objid = 1").fetchone()
    assert row is not None
    return int(row[0])


def _head(local: Service) -> str:
    with open_stream(local) as stream:
        return stream.head


def _readers(local: Service) -> int:
    lines = local.get("/metrics").body.decode().splitlines()
    return int(float(next(line for line in lines if line.startswith("fabmon_stream_readers ")).split()[1]))
