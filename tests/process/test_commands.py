"""Blocks of README and docs that follow `<!-- runnable -->` are run, as a reader would: in order, beside `fabmon up`.

`<!-- runnable: exit 3 -->` says how the block ends. What the reader has and a test has not is put in its place: the usual
ports, `.venv` and /etc/fabmon.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fixtures.roles import eventually
from tests.process.test_up import Up, running

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^<!-- runnable(?:: exit (\d+))? -->\n+```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Asking and reporting have different defaults, and one variable: the test's ports stand in for both.
WRAPPER = """#!/bin/sh
case "$1" in run) export FABMON_URL={sidecar} ;; jobs|job|tail) export FABMON_URL={local} ;; esac
exec {python} -m fabmon "$@"
"""


class Block(NamedTuple):
    page: str
    exit_code: int
    language: str
    text: str


def blocks() -> list[Block]:
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text()
        these = [Block(path.name, int(code or 0), language, body) for code, language, body in BLOCK.findall(text)]
        assert text.count("<!-- runnable") == len(these), f"{path.name}: a marker without a block right below it"
        found += these
    return found


@pytest.fixture
def up(data_dir: Path) -> Iterator[Up]:
    with running(data_dir, "--demo") as started:
        yield started


def test_every_block_that_is_marked_runs(up: Up, data_dir: Path) -> None:
    place = data_dir / "reader"
    program = place / ".venv" / "bin" / "fabmon"
    program.parent.mkdir(parents=True)
    program.write_text(WRAPPER.format(sidecar=up.sidecar.url, local=up.local.url, python=sys.executable))
    program.chmod(0o755)
    (place / "etc").mkdir()
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "FABMON_DATA_DIR": str(place)}
    eventually(lambda: up.local.get("/v1/jobs?limit=9").json["count"] == 9, 30)
    ran = blocks()
    assert {block.page for block in ran} >= {"README.md", "reporting.md", "security.md"}
    for block in ran:
        text = block.text.replace("/etc/fabmon", str(place / "etc"))
        for port, service in (("8000", up.sidecar), ("18000", up.local), ("19000", up.central)):
            text = re.sub(rf"\b(localhost|127\.0\.0\.1):{port}\b", f"127.0.0.1:{service.port}", text)
        shell = ["bash", "-euo", "pipefail", "-c", text]
        python = [sys.executable, "-c", text]
        done = subprocess.run(
            python if block.language == "python" else shell,
            cwd=place,
            env={**environment, "FABMON_URL": up.sidecar.url} if block.language == "python" else environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == block.exit_code, (block, done.stdout + done.stderr)
        assert '"code"' not in done.stdout, (block, done.stdout)  # an error that curl does not mind
    named = {job["app_name"]: job["status"] for job in up.local.get("/v1/jobs?key=LOT-4711&limit=9").json["items"]}
    assert named.items() >= {"yield-report": "failed", "recipe-runner": "running"}.items(), named
    assert (place / "etc" / "tokens").exists()
