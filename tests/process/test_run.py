"""`fabmon run`: real programs, real signals, and what is reported of them."""

import os
import pty
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest

import fabmon
from tests.fixtures.roles import free_port
from tests.fixtures.stub_sidecar import FABMON_RUN, Sidecar, fabmon_run

PYTHON = sys.executable
BURN = "import time\nwhile time.process_time() < 0.35: pass"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, /proc and the subreaper are Linux's")


def test_a_job_is_reported_with_its_figures(sidecar: Sidecar, environment: dict[str, str]) -> None:
    done = fabmon_run(
        environment, sidecar.url, "--key", "LOT-1", "--app-version", "1.2", "--meta", "tool=ETCH-07", "x=a=b",
        "--", PYTHON, "-c", BURN, "--password=hunter2",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    started, ended = sidecar.one_job()
    assert started["site_id"] == "fab1"
    assert started["app"]["name"] == "recipe-runner"
    assert started["app"]["version"] == "1.2"
    assert (started["entity"]["type"], started["entity"]["business_key"]) == ("job", "LOT-1")
    metadata = started["event"]["metadata"]
    assert metadata["tool"] == "ETCH-07"
    assert metadata["x"] == "a=b"
    assert metadata["command"] == PYTHON
    assert metadata["argument_count"] == 3
    assert metadata["host"] == socket.gethostname()
    assert metadata["pid"] > 0
    assert b"hunter2" not in b"".join(sidecar.bodies)
    assert (ended["event"]["kind"], ended["event"]["status"]) == ("finished", "succeeded")
    metrics = ended["event"]["metrics"]
    assert 0.2 <= metrics["cpu_user_s"] + metrics["cpu_system_s"] <= 2
    assert metrics["duration_s"] >= 0.2
    assert metrics["exit_code"] == 0
    assert 1 <= metrics["mem_max_mb"] <= 60


def test_the_app_id_follows_from_the_name_and_arguments_only_when_asked(
    sidecar: Sidecar, environment: dict[str, str]
) -> None:
    fabmon_run(environment, sidecar.url, "--with-arguments", "--", "true", "a b", app="one")
    fabmon_run(environment, sidecar.url, "--", "true", app="one")
    fabmon_run(environment, sidecar.url, "--", "true", app="two")
    starts = [event for event in sidecar.expect(6) if event["event"]["kind"] == "started"]
    first, second, third = (event["app"]["app_id"] for event in starts)
    assert first == second != third
    assert first == str(uuid5(UUID("7a3e51c4-0d5b-4f0c-9a51-6f1d0b8f2c11"), "one"))
    assert len({event["entity"]["id"] for event in starts}) == 3
    assert starts[0]["event"]["metadata"]["arguments"] == "'a b'"
    assert "arguments" not in starts[1]["event"]["metadata"]


def test_a_subjob_and_the_environment_of_the_program(
    sidecar: Sidecar, environment: dict[str, str], tmp_path: Path
) -> None:
    parent = str(uuid4())
    show = ["--", "sh", "-c", 'echo "$FABMON_JOB_ID $FABMON_APP $FABMON_URL"']
    in_subjob = fabmon_run(environment, sidecar.url, "--parent", parent, "--key", "W-01", "--site", "fab7", *show)
    other = {**environment, "FABMON_TOKEN": "secret", "FABMON_DATA_DIR": str(tmp_path / "other")}
    in_job = fabmon_run(other, sidecar.url, *show)
    subjob, _, job, _ = sorted(sidecar.expect(4), key=lambda event: event["entity"]["type"], reverse=True)
    assert (subjob["entity"]["type"], subjob["entity"]["parent_id"]) == ("subjob", parent)
    assert (subjob["entity"]["sub_key"], subjob["site_id"]) == ("W-01", "fab7")
    assert in_subjob.stdout.decode().split() == [parent, "recipe-runner", sidecar.url]
    assert in_job.stdout.decode().split()[0] == job["entity"]["id"]
    assert set(sidecar.tokens) == {None, "Bearer secret"}


def test_the_whole_tree_is_counted(sidecar: Sidecar, environment: dict[str, str], tmp_path: Path) -> None:
    """A grandchild whose parent has gone, one that nobody waits for, and one that outlives the program."""
    orphan = f"import os\nif os.fork(): os.wait(); os._exit(0)\nif os.fork(): os._exit(0)\nexec({BURN!r})"
    burnt = tmp_path / "burnt"
    daemon = (
        f"{BURN}\nfrom pathlib import Path; p = Path({str(burnt)!r}); p.touch()\nwhile p.exists(): time.sleep(0.05)"
    )
    script = '"$0" -c "$1"; ("$0" -c "$2"); "$0" -c "$3" >&- 2>&- & until [ -e "$4" ]; do sleep 0.05; done; sleep 0.4'
    done = fabmon_run(environment, sidecar.url, "--", "sh", "-c", script, PYTHON, orphan, BURN, daemon, str(burnt))
    burnt.unlink()  # the daemon still ran: it is not waited for
    assert done.returncode == 0
    _, ended = sidecar.one_job()
    metrics = ended["event"]["metrics"]
    assert 1.0 <= metrics["cpu_user_s"] + metrics["cpu_system_s"] <= 2.5


def test_peak_memory_is_that_of_the_program_and_shared_pages_count_once(
    sidecar: Sidecar, environment: dict[str, str]
) -> None:
    program = "import os, time\nx = bytearray(b'x') * (120 << 20)\n"
    fork = "[os.fork() or (time.sleep(0.4), os._exit(0)) for _ in range(4)]\ntime.sleep(0.4)"
    for last_line in ("time.sleep(0.5)", fork):
        sidecar.bodies.clear()
        fabmon_run(environment, sidecar.url, "--", PYTHON, "-c", program + last_line)
        _, ended = sidecar.one_job()
        assert 110 <= ended["event"]["metrics"]["mem_max_mb"] <= 250


@pytest.mark.parametrize(
    ("command", "code", "kind", "status", "metadata"),
    [
        (["true"], 0, "finished", "succeeded", {"exit_code": 0}),
        (["sh", "-c", "exit 3"], 3, "finished", "failed", {"exit_code": 3}),
        (["sh", "-c", "exit 143"], 143, "finished", "failed", {"exit_code": 143}),
        (["sh", "-c", "kill -SEGV $$"], 139, "finished", "failed", {"exit_code": 139, "signal": "SIGSEGV"}),
        (["sh", "-c", "kill -TERM $$"], 143, "canceled", "canceled", {"exit_code": 143, "signal": "SIGTERM"}),
        (["/nowhere/x"], 127, "error", "failed", {"exit_code": 127, "error": "/nowhere/x: No such file or directory"}),
        (["/"], 126, "error", "failed", {"exit_code": 126, "error": "/: Permission denied"}),
    ],
)
def test_ends(
    sidecar: Sidecar, environment: dict[str, str], command: list[str], code: int, kind: str, status: str, metadata: Any
) -> None:
    done = fabmon_run(environment, sidecar.url, "--", *command)
    _, ended = sidecar.one_job()
    assert done.returncode == code
    assert (ended["event"]["kind"], ended["event"]["status"]) == (kind, status)
    assert ended["event"]["metadata"] == metadata
    assert ended["event"]["metrics"]["exit_code"] == code


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_to_us_reaches_the_program_and_cancels_the_job(
    sidecar: Sidecar, environment: dict[str, str], name: str
) -> None:
    """The program catches the signal once, says so, and then dies of it."""
    program = (
        "import os, signal, time\n"
        "def say(what): os.write(1, what.encode() + b'\\n')\n"  # a second signal may come while the first is said
        "def on(number, _):\n"
        " say(signal.Signals(number).name); signal.signal(number, 0); os.kill(os.getpid(), number)\n"
        f"signal.signal(signal.SIGUSR1, lambda *_: say('USR1')); signal.signal(signal.{name}, on)\n"
        "print('ready', flush=True)\n"
        # In short sleeps: a signal that comes just before one begins is said when it ends. Not for ever, if one is lost.
        "for _ in range(1000): time.sleep(0.01)"
    )
    line = [*FABMON_RUN, "--app", "x", "--url", sidecar.url, "--", PYTHON, "-c", program]
    # A shell that starts the tests in the background has them ignore SIGINT, nohup SIGHUP, and so would the command.
    with subprocess.Popen(
        line,
        env=environment,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.Signals[name], signal.SIG_DFL),
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGUSR1)
        assert running.stdout.readline() == b"USR1\n"
        running.send_signal(signal.Signals[name])
        assert running.stdout.read() == f"{name}\n".encode()
        assert running.wait(30) == 128 + signal.Signals[name]
    _, ended = sidecar.one_job()
    assert (ended["event"]["kind"], ended["event"]["metadata"]["signal"]) == ("canceled", name)


def test_a_shell_that_says_143_after_our_sigterm_was_canceled(sidecar: Sidecar, environment: dict[str, str]) -> None:
    line = [*FABMON_RUN, "--app", "x", "--url", sidecar.url, "--"]
    script = "trap 'exit 143' TERM; echo ready; for i in $(seq 200); do sleep 0.05; done"
    with subprocess.Popen([*line, "sh", "-c", script], env=environment, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.terminate()
        assert running.wait(30) == 143
    assert sidecar.one_job()[1]["event"]["kind"] == "canceled"


def test_ctrl_c_at_a_terminal_arrives_once(sidecar: Sidecar, environment: dict[str, str]) -> None:
    """Both are in the terminal's foreground group; the program must see one SIGINT, and a real terminal."""
    program = (
        "import signal, sys, time\n"
        "seen = []; signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "print('ready', sys.stdin.isatty(), flush=True)\n"
        "end = time.time() + 10\nwhile not seen and time.time() < end: time.sleep(0.01)\n"
        "time.sleep(0.3); print('seen', len(seen), flush=True); sys.exit(7)"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            line = [*FABMON_RUN, "--app", "x", "--url", sidecar.url, "--", PYTHON, "-c", program]
            os.execve(line[0], line, environment)  # noqa: S606 - no shell is wanted
        finally:
            os._exit(99)
    shown = b""
    try:
        while b"ready True" not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        while b"seen" not in shown or not shown.endswith(b"\n"):
            shown += os.read(terminal, 1000)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    finally:
        os.close(terminal)
    assert b"seen 1" in shown
    assert sidecar.one_job()[1]["event"]["status"] == "failed"


def test_ctrl_z_stops_both_and_both_go_on(sidecar: Sidecar, environment: dict[str, str]) -> None:
    program = "import time; print('ready', flush=True); time.sleep(0.5); print('done', flush=True)"
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            line = [*FABMON_RUN, "--app", "x", "--url", sidecar.url, "--", PYTHON, "-c", program]
            os.execve(line[0], line, environment)  # noqa: S606 - as above
        finally:
            os._exit(99)
    shown = b""
    try:
        # The terminal's signal does nothing to an orphaned group, such as that of a session's leader, so it is sent.
        while not shown.endswith(b"ready\r\n"):
            shown += os.read(terminal, 1000)
        os.killpg(pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        assert select.select([terminal], [], [], 1.0)[0] == []
        os.killpg(pid, signal.SIGCONT)
        while b"done" not in shown:
            shown += os.read(terminal, 1000)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    assert sidecar.one_job()[1]["event"]["metrics"]["duration_s"] > 1.0


def test_streams_pass_byte_for_byte(sidecar: Sidecar, environment: dict[str, str]) -> None:
    given = bytes(range(256)) * 4096
    done = fabmon_run(environment, sidecar.url, "--", "sh", "-c", "tee /dev/stderr", given=given)
    assert done.stdout == given
    assert done.stderr == given


def test_signal_settings_and_open_files_pass_to_the_program(environment: dict[str, str]) -> None:
    """But for signals 32 and 33, which are the C library's own: its posix_spawn sets them to be ignored."""
    show = ["grep", "-hE", "Sig(Blk|Ign)|inherited", "/proc/self/status", "/dev/fd/9"]
    script = "trap '' HUP; exec 9<<E\ninherited\nE\n\"$@\""
    ours = [*FABMON_RUN, "--app", "x", "--url", f"http://127.0.0.1:{free_port()}", "--"]
    seen = []
    for wrapper in ([], ours):
        line = ["bash", "-c", script, "bash", *wrapper, *show]
        shown = subprocess.run(line, env=environment, capture_output=True, timeout=60, check=True).stdout.split()
        blocked, ignored, inherited = shown[1::2][:2] + shown[4:]
        seen.append((blocked, int(ignored, 16) & 0x7FFF_FFFF, inherited))
    assert seen[0] == seen[1]
    assert seen[0][1] & 1  # SIGHUP, as nohup has it
    assert seen[0][2] == b"inherited"


def test_the_command_stays_light(environment: dict[str, str]) -> None:
    """Each of these costs as much as all of it."""
    heavy = (
        "typing",
        "re",
        "enum",
        "collections",
        "functools",
        "argparse",
        "json",
        "datetime",
        "uuid",
        "pathlib",
        "msgspec",
    )
    program = (
        f"import sys, fabmon.cli.run\n"
        "code = fabmon.cli.run.run(['--', 'true'])\n"
        f"print(code, [name for name in {heavy} if name in sys.modules])"
    )
    # Without site, whose own imports are not ours, an editable install is not found by itself.
    environment["PYTHONPATH"] = str(Path(fabmon.__file__).parents[1])
    done = subprocess.run(
        [PYTHON, "-S", "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "0 []\n"
