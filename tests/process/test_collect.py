"""A real sidecar delivers what programs left while it was away."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.programs import python
from tests.fixtures.roles import Service, eventually, free_port
from tests.process.test_run_lost import running
from tests.process.test_run_sender import senders

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="locks and /proc")


@pytest.fixture
def service(environment: dict[str, str], tmp_path: Path) -> Iterator[Service]:
    """Not started yet; its site is away, so that all it takes is in its spool."""
    settings = {"FABMON_DATA_DIR": str(tmp_path), "FABMON_LOCAL_URL": f"http://127.0.0.1:{free_port()}"}
    made = Service("sidecar", settings, free_port(), tmp_path / "log")
    yield made
    made.stop()


def left(data_dir: Path) -> list[Path]:
    """But for what its writer was killed over."""
    return [path for path in (data_dir / "unsent").iterdir() if path.suffix != ".new"]


def spooled(data_dir: Path) -> set[bytes]:
    """The keys of the events in the spool; one that was left twice is there twice, and stored once."""
    files = [path for path in (data_dir / "sidecar-spool").rglob("*") if path.is_file()]
    return {key for path in files for key in re.findall(rb'"idempotency_key":"([^"]+)"', path.read_bytes())}


def test_of_a_python_program_and_of_a_killed_run(service: Service, environment: dict[str, str], tmp_path: Path) -> None:
    url = f"http://localhost:{service.port}"
    done = python("import fabmon\nwith fabmon.job('x'): pass", url, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with running(environment, url) as wrapper:
        eventually(lambda: len(left(tmp_path)) == 3)  # the program's events, the run's mark, and its start
        os.kill(wrapper.pid, signal.SIGKILL)
        wrapper.wait(30)
    assert not senders(url)
    service.start("/livez")
    eventually(lambda: not left(tmp_path))
    assert len(spooled(tmp_path)) == 4  # two, the start of the run, and that it is lost
    assert "unsent.delivered" in service.log
