"""The SDK in a program of several processes, and in one that is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.programs import clean_environment, python
from tests.fixtures.roles import eventually
from tests.fixtures.stub_sidecar import Sidecar

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork and signals")


def test_a_fork_in_the_middle_neither_loses_nor_repeats(sidecar: Sidecar, tmp_path: Path) -> None:
    program = (
        "import fabmon, os, sys\n"
        "with fabmon.job('parent') as job:\n"
        "    for n in range(50): job.progress(n, 50)\n"
        "    pid = os.fork()\n"
        "    for n in range(50):\n"
        "        with job.subjob(f'{os.getpid()}-{n}'): pass\n"
        "    if pid: os.waitpid(pid, 0)\n"
        "    else: sys.exit(0)\n"  # leaves the block: the job is not the child's to end
    )
    done = python(program, sidecar.url, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    keys = [event["idempotency_key"] for event in sidecar.events]
    assert len(keys) == len(set(keys)) == 1 + 50 + 200 + 1
    ended = [e for e in sidecar.events if e["entity"]["type"] == "job" and e["event"]["kind"] == "finished"]
    assert len(ended) == 1


def test_a_fork_while_the_emitter_imports_what_it_needs(sidecar: Sidecar, tmp_path: Path) -> None:
    """The child would be left with half a module."""
    program = (
        "import fabmon, os, sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'email.parser': began.append(name); time.sleep(0.3)\n"  # in the middle of http.client
        "began = []; sys.meta_path.insert(0, Slow())\n"
        "with fabmon.job('parent') as job:\n"
        "    while not began: time.sleep(0.001)\n"
        "    pid = os.fork()\n"
        "    with job.subjob('each'): pass\n"
        "    if pid: assert os.waitpid(pid, 0)[1] == 0\n"
        "    else: sys.exit(0)\n"
    )
    done = python(program, sidecar.url, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(sidecar.events) == 2 + 4


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_report_before_they_end(sidecar: Sidecar, tmp_path: Path, method: str) -> None:
    script = tmp_path / "pool.py"
    script.write_text(
        "import fabmon, multiprocessing, sys\n"
        "def work(n):\n"
        "    with fabmon.job(f'worker-{n}', app='pool'): return n\n"
        "if __name__ == '__main__':\n"
        "    with fabmon.job('first', app='pool'): pass\n"
        "    context = multiprocessing.get_context(sys.argv[1])\n"
        "    children = [context.Process(target=work, args=[n]) for n in range(3)]\n"
        "    [child.start() for child in children]; [child.join() for child in children]\n"
        "    assert [child.exitcode for child in children] == [0, 0, 0]\n"
    )
    environment = {**clean_environment(tmp_path), "FABMON_URL": sidecar.url}
    done = subprocess.run(
        [sys.executable, str(script), method], env=environment, capture_output=True, timeout=40, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(sidecar.events) == 2 + 6


def test_a_killed_program_has_its_first_events_sent(sidecar: Sidecar, tmp_path: Path) -> None:
    program = "import fabmon, time\nwith fabmon.job('x'): time.sleep(60)"
    environment = {**clean_environment(tmp_path), "FABMON_URL": sidecar.url}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as running:
        try:
            eventually(lambda: sidecar.bodies)
        finally:
            running.kill()
    assert [event["event"]["kind"] for event in sidecar.events] == ["started"]
