"""What is told of a request: a line on each role under one id, its trace passed on, spans where somebody collects them."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.fixtures.roles import Service, StartRole, eventually
from tests.fixtures.tokens import add_token, bearer
from tests.make import event_dict

pytestmark = pytest.mark.one_lane

ONE = "/v1/ingest/events"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def sidecar(make_role: StartRole, local: Service) -> Service:
    """The real one; the tests of reporting have a stub of that name (conftest.py)."""
    return make_role("sidecar", FABMON_LOCAL_URL=local.url).start()


def lines(service: Service, event: str = "request") -> list[dict[str, Any]]:
    return [line for text in service.log.splitlines() if (line := json.loads(text))["event"] == event]


def lines_of(service: Service, request_id: str) -> list[dict[str, Any]]:
    eventually(lambda: any(line["request_id"] == request_id for line in lines(service)), why=lambda: service.log)
    return [line for line in lines(service) if line["request_id"] == request_id]


def test_one_line_on_each_role_under_the_callers_id(sidecar: Service, local: Service, central: Service) -> None:
    reply = sidecar.post(ONE, event_dict(), {"x-request-id": "LOT-4711/7", "traceparent": TRACEPARENT})
    assert reply.headers["x-request-id"] == "LOT-4711/7"
    at_sidecar, at_local = lines_of(sidecar, "LOT-4711/7"), lines_of(local, "LOT-4711/7")
    assert [(line["method"], line["route"], line["status"]) for line in at_sidecar] == [("POST", ONE, 200)]
    assert [line["route"] for line in at_local] == ["/v1/ingest/events:batch"]
    assert at_sidecar[0]["trace_id"] == at_local[0]["trace_id"] == TRACE
    assert (at_sidecar[0]["bytes_out"], at_sidecar[0]["service"], at_sidecar[0]["level"]) == (11, "sidecar", "info")
    assert 300 < at_sidecar[0]["bytes_in"] < 1000
    assert 0 < at_local[0]["ms"] <= at_sidecar[0]["ms"] < 5000
    asked = central.ask("GET", "/v1/jobs?site=fab1&key=hunter2", headers={"x-request-id": "q-1"})
    assert asked.headers["x-request-id"] == "q-1"
    assert [line["route"] for line in lines_of(local, "q-1") + lines_of(central, "q-1")] == ["/v1/jobs"] * 2
    assert "hunter2" not in local.log + central.log


def test_what_cannot_be_logged_as_an_id_is_replaced(sidecar: Service) -> None:
    for wrong in ('"},{"', "x" * 101, ""):
        given = sidecar.ask("GET", "/v1/nothing?token=hunter2", headers={"x-request-id": wrong, "traceparent": wrong})
        assert given.headers["x-request-id"] != wrong
        line = lines_of(sidecar, given.headers["x-request-id"])[0]
        assert (line["route"], line["status"], "trace_id" in line) == ("unknown", 404, False)
    assert "hunter2" not in sidecar.log


def test_refusals_have_a_line_and_health_checks_none(make_role: StartRole, data_dir: Any) -> None:
    add_token(data_dir / "tokens", "reader", "read")
    role = make_role("sidecar", FABMON_TOKENS_FILE=str(data_dir / "tokens")).start()
    refused = role.post(ONE, event_dict(), bearer("fabmon_wrong-one"))
    assert (refused.status, lines_of(role, refused.headers["x-request-id"])[0]["status"]) == (401, 401)
    assert "fabmon_wrong-one" not in role.log
    for path in ("/livez", "/readyz", "/metrics", "/v1/healthz"):
        assert role.get(path).status == 200
    assert {line["route"] for line in lines(role)} == {"unknown"}  # refused before a route was looked for


def test_it_can_be_switched_off(make_role: StartRole) -> None:
    for setting in ({"FABMON_REQUEST_LOG": "false"}, {"FABMON_LOG_LEVEL": "warning"}):
        role = make_role("central", **setting).start()
        assert role.get("/v1/sites").status == 200
        role.stop()
        assert lines(role) == []


def test_a_joined_batch_names_the_requests_in_it(make_role: StartRole, local: Service) -> None:
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url).start()
    with ThreadPoolExecutor(16) as threads:
        sent = {
            f"r-{n}": threads.submit(sidecar.post, ONE, event_dict(), {"x-request-id": f"r-{n}"}) for n in range(160)
        }
        assert {future.result().status for future in sent.values()} == {200}
    assert (sidecar.stop(), local.stop()) == (0, 0)  # lines that wait are written
    alone = {line["request_id"] for line in lines(local)}
    batches = {line["request_id"]: line["of"].split(",") for line in lines(sidecar, "requests.joined")}
    assert batches, "160 requests of 16 callers were never joined"
    # Each request is found at the site: by its own id, or by that of the batch that names it.
    assert set(sent) <= alone | {name for batch, names in batches.items() if batch in alone for name in names}


class Collector:
    """Takes spans as an OpenTelemetry collector does, on a real socket."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in request.resource_spans:
                    names = {each.key: each.value.string_value for each in resource.resource.attributes}
                    collector.spans += [
                        (names["service.name"], span) for scope in resource.scope_spans for span in scope.spans
                    ]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def of(self, service: str, kind: int) -> list[Any]:
        return [span for name, span in self.spans if name == service and span.kind == kind]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, args=[0.01])
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_spans_of_one_request_hang_together(collector: Collector, make_role: StartRole, database_url: str) -> None:
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    local = make_role("local", FABMON_DATABASE_URL=database_url, FABMON_SITE_ID="fab1", **otel).start()
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url, **otel).start()
    assert sidecar.post(ONE, event_dict(), {"traceparent": TRACEPARENT}).status == 200
    assert sidecar.post(ONE, event_dict(kind="x")).status == 422
    assert (sidecar.stop(), local.stop()) == (0, 0)  # what waits is sent at the end
    server, other = sorted(collector.of("fabmon-sidecar", 2)[-2:], key=lambda span: span.trace_id.hex() != TRACE)
    client = next(span for span in collector.of("fabmon-sidecar", 3) if span.parent_span_id == server.span_id)
    stored = next(span for span in collector.of("fabmon-local", 2) if span.parent_span_id == client.span_id)
    assert {span.trace_id.hex() for span in (server, client, stored)} == {TRACE}
    assert server.parent_span_id.hex() == PARENT
    assert (server.name, stored.name) == (f"POST {ONE}", "POST /v1/ingest/events:batch")
    assert server.start_time_unix_nano <= client.start_time_unix_nano <= stored.start_time_unix_nano
    status = {each.key: each.value.int_value for each in other.attributes}["http.response.status_code"]
    assert (other.trace_id.hex() != TRACE, status) == (True, 422)


def test_a_collector_that_is_away_harms_nobody(make_role: StartRole) -> None:
    role = make_role("sidecar", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_BSP_EXPORT_TIMEOUT="500").start()
    begun = time.monotonic()
    assert role.post(ONE, event_dict()).status == 200
    assert time.monotonic() - begun < 3
    assert role.stop() == 0
    assert time.monotonic() - begun < 8
