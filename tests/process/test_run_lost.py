"""`fabmon run` killed by `kill -9`: found by whoever comes next, and taken back by any later word of the run."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fabmon.clock import now
from fabmon.unsent.lost import lost_event, settle
from fabmon.unsent.mark import Mark
from fabmon.wire.codec import decode_object
from tests.fixtures.roles import Service, eventually, free_port
from tests.fixtures.stub_sidecar import FABMON_RUN, Sidecar, fabmon_run
from tests.make import event_bytes, event_dict

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks that end with their process")


@contextmanager
def running(environment: dict[str, str], url: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose program waits for ever, or until its wrapper has gone."""
    script = "echo ready; while kill -0 $PPID 2>/dev/null && [ $PPID = $(ps -o ppid= -p $$) ]; do sleep 0.05; done"
    line = [*FABMON_RUN, "--app", "x", "--url", url, *options, "--", "sh", "-c", script]
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE) as wrapper:
        assert wrapper.stdout is not None
        assert wrapper.stdout.readline() == b"ready\n"
        try:
            yield wrapper
        finally:
            wrapper.kill()


def marks(data_dir: Path) -> list[Path]:
    return list((data_dir / "unsent").glob("*.run"))


def said_lost(sidecar: Sidecar) -> list[str]:
    return [event["entity"]["id"] for event in sidecar.events if "fabmon_lost" in event["event"]["metadata"]]


def test_the_next_run_finds_it_and_leaves_the_living_alone(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(environment, url) as dead, running(environment, url):
        eventually(lambda: len(marks(tmp_path)) == 2)
        dead.kill()
        dead.wait(30)
        with Sidecar(port).serving() as sidecar:
            fabmon_run(environment, url, "--", "true")
            eventually(lambda: said_lost(sidecar))
            (lost,) = said_lost(sidecar)
        (alive,) = marks(tmp_path)
        assert lost not in alive.name
    kinds = [event["event"]["kind"] for event in sidecar.events if event["entity"]["id"] == lost]
    assert kinds == ["started", "metric"]


@pytest.mark.one_lane
def test_the_jobs_answer_says_so_until_the_run_is_heard_of_again(
    local: Service, environment: dict[str, str], tmp_path: Path
) -> None:
    with running(environment, local.url, "--key", "LOT-1") as dead:
        eventually(lambda: local.get("/v1/jobs").json["count"] == 1)
        job = local.get("/v1/jobs").json["items"][0]
        assert (job["status"], job["lost"]) == ("running", False)
        dead.kill()
        dead.wait(30)
    fabmon_run(environment, local.url, "--wait", "--", "true")

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = local.get(f"/v1/jobs/{job['job_id']}").json
        return found

    assert (shown()["status"], shown()["lost"]) == ("running", True)
    assert "killed" in shown()["metadata"]["fabmon_lost"]
    before = event_dict("progress", run=job["job_id"], at=now() - timedelta(minutes=1))
    local.send([before])
    assert shown()["lost"] is True  # an earlier word that came late
    local.send([event_dict("progress", run=job["job_id"], at=now() + timedelta(minutes=1))])
    assert shown()["lost"] is False
    local.send([event_dict("finished", run=job["job_id"], at=now() - timedelta(minutes=1))])
    assert (shown()["status"], shown()["lost"]) == ("succeeded", False)


def test_two_who_find_it_say_the_same(tmp_path: Path) -> None:
    started = event_dict()
    keys = {json.loads(lost_event(started))["idempotency_key"] for _ in range(2)}
    assert len(keys) == 1
    assert keys != {json.loads(lost_event(event_dict()))["idempotency_key"]}


def test_a_torn_mark_is_read_as_far_as_it_goes_and_a_spoiled_one_is_removed(tmp_path: Path) -> None:
    started = event_bytes()
    (tmp_path / "abc-1.run").write_bytes(started + b'\n{"torn')
    (tmp_path / "abc-2.run").write_bytes(b"spoiled\n")
    (tmp_path / "abc-3.run").write_bytes(b"")
    (tmp_path / "other-4.run").write_bytes(started + b"\n")
    (tmp_path / "abc-5.run").symlink_to(tmp_path / "other-4.run")
    settle(tmp_path, "abc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["abc-1.jsonl", "abc-5.run", "other-4.run"]
    first, second = (tmp_path / "abc-1.jsonl").read_bytes().splitlines()
    assert first == started
    said = decode_object(second)
    assert said is not None
    assert list(said["event"]["metadata"]) == ["fabmon_lost"]


def test_a_mark_is_locked_from_the_moment_it_is_there(tmp_path: Path) -> None:
    mark = Mark(str(tmp_path), "abc-1", event_bytes())
    settle(tmp_path, "abc")
    assert [path.name for path in tmp_path.iterdir()] == ["abc-1.run"]
    mark.complete(event_bytes("finished"))
    assert len((tmp_path / "abc-1.jsonl").read_bytes().splitlines()) == 2
