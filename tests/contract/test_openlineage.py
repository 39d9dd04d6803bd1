"""OpenLineage: events of the real `openlineage-python` client, over HTTP, become jobs and subjobs."""

import gzip
import json
from typing import Any
from uuid import uuid4

import pytest
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import error_message_run, parent_run
from openlineage.client.transport.http import HttpCompression, HttpConfig, HttpTransport

from tests.fixtures.roles import Service, StartRole, eventually

ONE, BATCH = "/api/v1/lineage", "/api/v1/lineage/batch"

pytestmark = pytest.mark.one_lane
PRODUCER = "https://example.org/airflow"


def client(service: Service, compressed: bool = False) -> OpenLineageClient:
    compression = HttpCompression.GZIP if compressed else None
    return OpenLineageClient(transport=HttpTransport(HttpConfig(url=service.url, compression=compression)))


def emit(to: OpenLineageClient, state: RunState, run: str, name: str, second: int, **facets: Any) -> None:
    to.emit(
        RunEvent(
            eventType=state,
            eventTime=f"2026-11-20T12:00:{second:02}.5+01:00",
            run=Run(run, facets),
            job=Job("plant-7", name),
            producer=PRODUCER,
            inputs=[InputDataset("db", "lots")],
            outputs=[OutputDataset("db", "yield")],
        )
    )


def raw(event_type: str | None = "START", **parts: Any) -> dict[str, Any]:
    return {
        **({"eventType": event_type} if event_type else {}),
        "eventTime": "2026-11-20T12:00:00Z",
        "run": {"runId": str(uuid4())},
        "job": {"namespace": "n", "name": "j"},
        "producer": PRODUCER,
        "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
    } | parts


def jobs(local: Service) -> dict[str, dict[str, Any]]:
    return {row["job_id"]: row for row in local.get("/v1/jobs").json["items"]}


@pytest.mark.parametrize("compressed", [False, True])
def test_the_real_clients_runs_become_jobs_and_subjobs(local: Service, compressed: bool) -> None:
    dag, task, failed, spark = (str(uuid4()) for _ in range(4))
    sender = client(local, compressed)
    of_dag = parent_run.ParentRunFacet(parent_run.Run(dag), parent_run.Job("plant-7", "dag"))
    of_task = parent_run.ParentRunFacet(
        parent_run.Run(task),
        parent_run.Job("plant-7", "task"),
        root=parent_run.Root(parent_run.RootRun(dag), parent_run.RootJob("plant-7", "dag")),
    )
    emit(sender, RunState.COMPLETE, task, "task", 30, parent=of_dag)  # the parent is not known yet
    assert local.get("/v1/jobs").json["count"] == 0
    assert local.row("/v1/subjobs", "subjob_id", task) is not None
    emit(sender, RunState.START, dag, "dag", 0)
    emit(sender, RunState.START, task, "task", 1, parent=of_dag)
    emit(sender, RunState.RUNNING, spark, "spark", 5, parent=of_task)
    why = error_message_run.ErrorMessageRunFacet("no such lot", "PYTHON", "Traceback ...")
    emit(sender, RunState.FAIL, failed, "broken", 8, parent=of_dag, errorMessage=why)
    emit(sender, RunState.ABORT, dag, "dag", 40)
    row = jobs(local)[dag]
    assert (row["app_name"], row["job_key"], row["status"], row["duration_s"]) == ("plant-7", "dag", "canceled", 40.0)
    assert row["metadata"]["producer"] == PRODUCER
    assert (row["metadata"]["inputs"], row["metadata"]["outputs"]) == (["db/lots"], ["db/yield"])
    subjobs = {one["subjob_id"]: one for one in local.get("/v1/subjobs").json["items"]}
    assert {one["job_id"] for one in subjobs.values()} == {dag}
    assert (subjobs[task]["status"], subjobs[task]["duration_s"], subjobs[task]["sub_key"]) == (
        "succeeded",
        29.0,
        "task",
    )
    assert (subjobs[failed]["status"], subjobs[failed]["metadata"]["error"]) == ("failed", "no such lot")
    assert (subjobs[spark]["status"], subjobs[spark]["metadata"]["parent_run"]) == ("running", task)


def test_the_same_body_in_another_order_is_stored_once(local: Service) -> None:
    event = raw()
    assert local.post(ONE, event).json == {"ok": True}
    assert local.post(ONE, dict(reversed(event.items()))).json == {"ok": True, "duplicate": True}
    assert local.post(ONE, event | {"producer": "another"}).json == {"ok": True}


def test_other_and_none_change_no_state(local: Service) -> None:
    run = {"runId": str(uuid4())}
    for event_type in ("COMPLETE", "OTHER", None, "other"):
        assert (
            local.post(ONE, raw(event_type, run=run, eventTime=f"2026-11-20T13:00:0{len(str(event_type))}Z")).status
            == 200
        )
    row = jobs(local)[run["runId"]]
    assert (row["status"], row["event_count"]) == ("succeeded", 4)


def test_events_without_a_run_are_answered_and_counted(local: Service) -> None:
    dataset = {"eventTime": "2026-11-20T12:00:00Z", "dataset": {"namespace": "n", "name": "d"}}
    no_run = {"eventTime": "2026-11-20T12:00:00Z", "job": {"namespace": "n", "name": "j"}}
    assert local.post(ONE, dataset).json == {"ok": True}
    assert local.post(ONE, no_run).json == {"ok": True}
    answer = local.post(BATCH, [dataset, raw(), no_run])
    assert (answer.status, answer.json["stored"], answer.json["rejected"]) == (200, 1, [])
    assert 'fabmon_events_total{outcome="no_run"} 4.0' in local.get("/metrics").body.decode()


def test_a_batch_is_judged_event_by_event(local: Service) -> None:
    dataset = {"dataset": {"namespace": "n", "name": "d"}}
    wrong = [raw(eventTime="noon"), raw(job=7), raw("HALT"), raw(run={"runId": "7"}), 5, raw(job={"name": "x"})]
    answer = local.post(BATCH, [dataset, raw(), *wrong, raw()])
    assert (answer.status, answer.json["ok"], answer.json["stored"]) == (207, False, 2)
    assert [(each["index"], each["code"]) for each in answer.json["rejected"]] == [
        (2, "bad_at"), (3, "missing_field"), (4, "bad_kind"), (5, "bad_id"), (6, "not_an_object"), (7, "bad_app_name"),
    ]  # fmt: skip
    assert local.post(BATCH, wrong).status == 422
    assert local.post(BATCH, raw()).json["code"] == "not_an_array"
    assert local.post(BATCH, b"[").json["code"] == "not_json"
    assert local.post(ONE, raw("HALT")).json["code"] == "bad_kind"
    assert local.post(ONE, b"[" * 100_000).status == 422


def test_a_large_event_is_cut_to_what_is_kept(local: Service) -> None:
    plan = {"plan": "x" * 3_000_000}
    names = [{"namespace": "n", "name": "d" * 9000} for _ in range(500)]
    event = raw(run={"runId": str(uuid4()), "facets": {"spark.logicalPlan": plan}}, inputs=names, producer="p" * 70_000)
    packed = gzip.compress(json.dumps(event).encode())
    assert local.post(ONE, packed, {"Content-Encoding": "gzip"}).json == {"ok": True}
    assert len(jobs(local)[event["run"]["runId"]]["metadata"]["inputs"]) == 20


def test_a_sidecar_takes_it_and_needs_a_site(make_role: StartRole, local: Service) -> None:
    nameless = make_role("sidecar", FABMON_LOCAL_URL=local.url).start()
    refused = nameless.post(ONE, raw())
    assert (refused.status, refused.json["parameter"]) == (422, "site")
    assert nameless.post(f"{ONE}?site=fab1", raw()).json == {"ok": True}
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url, FABMON_SITE_ID="fab1").start()
    run = str(uuid4())
    emit(client(sidecar), RunState.START, run, "through", 0)
    eventually(lambda: run in jobs(local))
    assert sidecar.post(BATCH, [raw(), raw()]).json == {"ok": True, "forwarded": 2, "spooled": 0, "rejected": []}
