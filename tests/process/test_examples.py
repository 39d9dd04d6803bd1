"""The programs under examples/ run as they stand, against a real sidecar and a real site."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.programs import clean_environment
from tests.fixtures.roles import Service, StartRole, eventually

pytestmark = pytest.mark.one_lane

EXAMPLES = Path(__file__).parents[2] / "examples"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell and make")


@pytest.fixture
def environment(make_role: StartRole, local: Service, tmp_path: Path) -> dict[str, str]:
    """That of a user's program beside a sidecar; `fabmon` is on the path."""
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url, FABMON_SITE_ID="fab1").start()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**clean_environment(tmp_path / "data"), "FABMON_URL": sidecar.url, "PATH": path}


def run(command: list[str], environment: dict[str, str], folder: Path) -> None:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def ended(local: Service, key: str, status: str = "succeeded") -> dict[str, Any]:
    """The job of this key, once it has ended so."""

    def found() -> dict[str, Any] | None:
        row = local.row("/v1/jobs", "job_key", key)
        return row if row is not None and row["status"] == status else None

    eventually(found)
    row = found()
    assert row is not None
    return row


def test_the_python_batch(local: Service, environment: dict[str, str], tmp_path: Path) -> None:
    run([sys.executable, str(EXAMPLES / "batch.py"), "LOT-1"], environment, tmp_path)
    row = ended(local, "LOT-1")
    assert (row["app_name"], row["metadata"]["tool"], row["progress"]) == ("recipe-runner", "ETCH-07", 1.0)
    subjobs = {one["sub_key"]: one for one in local.get("/v1/subjobs").json["items"]}
    assert {one["job_id"] for one in subjobs.values()} == {row["job_id"]}
    assert {key: one["error_count"] for key, one in subjobs.items()} == {"wafer-1": 0, "wafer-2": 1, "wafer-3": 0}
    assert {one["status"] for one in subjobs.values()} == {"succeeded"}


@needs_curl
def test_the_shell_script(local: Service, environment: dict[str, str], tmp_path: Path) -> None:
    name = subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout.strip()
    run(["sh", str(EXAMPLES / "backup.sh"), str(tmp_path / "out.tgz"), str(EXAMPLES)], environment, tmp_path)
    assert ended(local, name)["app_name"] == "backup"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make(local: Service, environment: dict[str, str], tmp_path: Path) -> None:
    run(["make", "-s", "-f", str(EXAMPLES / "Makefile")], environment, tmp_path)
    assert (tmp_path / "report.txt").read_text().strip() == "1000"
    assert ended(local, "data.txt")["app_name"] == "nightly-build"
    assert ended(local, "report.txt")["progress"] == 0.5


def test_the_cron_line(local: Service, environment: dict[str, str], tmp_path: Path) -> None:
    (line,) = [line for line in (EXAMPLES / "crontab").read_text().splitlines() if line.startswith("10 2")]
    command = line.split(maxsplit=5)[5].replace("/opt/fab/bin/yield-report --all", "sh -c 'echo no data >&2; exit 4'")
    command = command.replace("/var/log/", f"{tmp_path}/")
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (4, b"", b"")
    assert ended(local, "nightly", "failed")["metadata"]["stderr_tail"] == "no data"


def test_the_openlineage_emitter(local: Service, environment: dict[str, str], tmp_path: Path) -> None:
    run([sys.executable, str(EXAMPLES / "emit_openlineage.py")], environment, tmp_path)
    row = ended(local, "yield_dag")
    (task,) = [one for one in local.get("/v1/subjobs").json["items"] if one["sub_key"] == "yield_dag.load"]
    assert (task["job_id"], task["status"]) == (row["job_id"], "succeeded")


@needs_curl
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_c_program(local: Service, environment: dict[str, str], tmp_path: Path) -> None:
    run(["cc", "-Wall", "-Werror", "-o", "plc", str(EXAMPLES / "plc.c")], environment, tmp_path)
    run([str(tmp_path / "plc")], environment, tmp_path)
    assert ended(local, "STATION-3")["app_name"] == "plc-gateway"
