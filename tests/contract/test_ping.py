"""One-liners: /v1/ping on sidecar and local, with the real curl where there is one."""

import shutil
import subprocess
from typing import Any
from urllib.parse import quote

import pytest

from tests.fixtures.roles import Reply, Service, StartRole, eventually

pytestmark = pytest.mark.one_lane


def job(local: Service, key: str) -> dict[str, Any] | None:
    return local.row("/v1/jobs", "job_key", key)


def test_a_run_in_three_pings(local: Service) -> None:
    base = "/v1/ping/backup/nightly"
    assert local.get(f"{base}/started?rid=7&at=2026-11-20T01:00:00Z").json == {"ok": True}
    assert local.post(f"{base}/progress?rid=7&progress=0.5&at=2026-11-20T01:10:00Z", b"").json == {"ok": True}
    assert local.get(f"{base}/succeeded?rid=7&at=2026-11-20T03:30:00+02:00").json == {"ok": True}
    row = job(local, "nightly")
    assert row is not None
    assert (row["app_name"], row["site_id"], row["status"]) == ("backup", "fab1", "succeeded")
    assert (row["duration_s"], row["progress"], row["metadata"]) == (1800.0, 0.5, {"rid": "7"})


def test_the_same_ping_twice_is_stored_once(local: Service) -> None:
    path = "/v1/ping/backup/once/failed?at=2026-11-20T01:00:00Z"
    assert local.get(path).json == {"ok": True}
    assert local.post(path, b"").json == {"ok": True, "duplicate": True}
    assert local.get(path.replace("00Z", "01Z")).json == {"ok": True}


def test_a_rid_makes_a_run_of_its_own_and_without_one_the_last_end_counts(local: Service) -> None:
    for rid in ("a", "b", "a/b", "\u00e4 ?"):
        local.get(f"/v1/ping/x/many/succeeded?rid={quote(rid, safe='')}")
    assert len([row for row in local.get("/v1/jobs").json["items"] if row["job_key"] == "many"]) == 4
    for hour, state in enumerate(["started", "failed", "started", "succeeded", "started", "failed"]):
        assert local.get(f"/v1/ping/x/one/{state}?at=2026-11-20T{hour:02}:00:00Z").json == {"ok": True}
    rows = [row for row in local.get("/v1/jobs").json["items"] if row["job_key"] == "one"]
    assert [row["status"] for row in rows] == ["failed"]


def test_keys_with_slashes_and_other_characters(local: Service) -> None:
    for key in ("LOT-1/25", "Los Nr. 7", "\u00e9\u00e8", "a%b"):
        assert local.get(f"/v1/ping/x/{quote(key)}/started").status == 200
        assert job(local, key) is not None


@pytest.mark.parametrize(
    ("path", "status", "code", "names"),
    [
        ("/v1/ping/a/k/begun", 422, "bad_parameter", "state"),
        ("/v1/ping/a/k/started?run=1", 422, "bad_parameter", "run"),
        ("/v1/ping/a/k/started?rid=1&rid=2", 422, "bad_parameter", "rid"),
        ("/v1/ping/a/k/started?progress=much", 422, "bad_parameter", "progress"),
        ("/v1/ping/a/k/started?progress=nan", 422, "bad_parameter", "progress"),
        ("/v1/ping/a/k/started?at=yesterday", 422, "bad_at", None),
        ("/v1/ping/a/k/started?at=2999-01-01T00:00:00Z", 422, "at_too_far_ahead", None),
        ("/v1/ping/a/k/started?site=fab9", 422, "wrong_site", None),
        (f"/v1/ping/a/{'k' * 501}/started", 422, "too_long", None),
        ("/v1/ping/a//started", 422, "bad_parameter", "key"),  # an unset variable in a script
        ("/v1/ping/a/k", 404, "not_found", None),
    ],
)
def test_what_is_wrong_is_named(local: Service, path: str, status: int, code: str, names: str | None) -> None:
    reply = local.get(path)
    assert (reply.status, reply.json["code"], reply.json.get("parameter")) == (status, code, names)


def test_a_look_reports_nothing(local: Service) -> None:
    assert local.ask("HEAD", "/v1/ping/a/looked-at/started").status == 405
    assert local.ask("DELETE", "/v1/ping/a/looked-at/started").status == 405
    assert job(local, "looked-at") is None


def test_a_site_is_needed_and_a_sidecar_passes_the_ping_on(make_role: StartRole, local: Service) -> None:
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url).start()
    reply: Reply = sidecar.get("/v1/ping/a/through/started")
    assert (reply.status, reply.json["code"], reply.json["parameter"]) == (422, "bad_parameter", "site")
    assert "FABMON_SITE_ID" in reply.json["detail"]
    assert sidecar.get("/v1/ping/a/through/started?site=fab1").json == {"ok": True}
    eventually(lambda: job(local, "through"))


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_from_a_shell(local: Service) -> None:
    url = f"{local.url}/v1/ping/shell/curl/succeeded?at="
    line = f'curl -fsS -m 5 "{url}$(date -u +%FT%TZ)" && curl -fsS -m 5 -X POST "{local.url}/v1/ping/shell/curl/x"'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (22, '{"ok":true}')
    assert job(local, "curl") is not None
