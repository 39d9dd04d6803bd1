"""The SDK in real programs: what a job says arrives, whole, and under the right heading."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.fixtures.programs import clean_environment, python
from tests.fixtures.stub_sidecar import FABMON_RUN, Sidecar


def run(sidecar: Sidecar, program: str, data_dir: Path, **environment: str) -> list[dict[str, Any]]:
    """The events of a program that must end well and in silence."""
    done = python("import fabmon\n" + program, sidecar.url, data_dir, environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return sidecar.events


def ends(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last event of each run, by its key."""
    return {(e["entity"]["sub_key"] or e["entity"]["business_key"]): e["event"] for e in events}


def test_the_example_of_the_contract_works_as_it_stands(sidecar: Sidecar, tmp_path: Path) -> None:
    events = run(
        sidecar,
        'wafers = [1, 2]\nwith fabmon.job("etch-batch", key="LOT-4711", app="recipe-runner", '
        'metadata={"tool": "ETCH-07"}) as job:\n'
        "    for wafer in wafers:\n"
        '        with job.subjob(f"wafer-{wafer}") as sub:\n'
        "            sub.progress(0.5)\n",
        tmp_path,
    )
    assert [e["event"]["kind"] for e in events] == ["started"] + 2 * ["started", "progress", "finished"] + ["finished"]
    job, last = events[0], events[-1]
    assert (job["site_id"], job["app"]["name"], job["entity"]["business_key"]) == ("fab1", "recipe-runner", "LOT-4711")
    assert (job["entity"]["type"], job["entity"]["id"]) == ("job", last["entity"]["id"])
    assert job["event"]["metadata"].items() >= {"tool": "ETCH-07", "name": "etch-batch"}.items()
    assert last["event"]["status"] == "succeeded"
    assert set(last["event"]["metrics"]) >= {"duration_s", "cpu_user_s", "cpu_system_s"}
    for sub, wafer in ((events[1], "wafer-1"), (events[4], "wafer-2")):
        assert (sub["entity"]["type"], sub["entity"]["parent_id"]) == ("subjob", job["entity"]["id"])
        assert (sub["entity"]["sub_key"], sub["app"]) == (wafer, job["app"])
    assert events[2]["event"]["metrics"] == {"progress": 0.5}


def test_ends_are_told_apart(sidecar: Sidecar, tmp_path: Path) -> None:
    events = run(
        sidecar,
        "import asyncio, sys\n"
        "for error in (ValueError('no wafer'), KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(0),\n"
        "              SystemExit(3), SystemExit(143), SystemExit('text'), GeneratorExit()):\n"
        "    try:\n"
        "        with fabmon.job(repr(error)): raise error\n"
        "    except BaseException as seen: assert seen is error\n",
        tmp_path,
    )
    assert {key: (end["kind"], end["status"]) for key, end in ends(events).items()} == {
        "ValueError('no wafer')": ("error", "failed"),
        "KeyboardInterrupt()": ("canceled", "canceled"),
        "CancelledError()": ("canceled", "canceled"),
        "SystemExit(0)": ("finished", "succeeded"),
        "SystemExit(3)": ("error", "failed"),
        "SystemExit(143)": ("canceled", "canceled"),
        "SystemExit('text')": ("error", "failed"),
        "GeneratorExit()": ("canceled", "canceled"),
    }
    failed = ends(events)["ValueError('no wafer')"]["metadata"]
    assert failed == {"error": "ValueError: no wafer", "error_at": "<string>:6"}


def test_what_a_job_says_on_its_way(sidecar: Sidecar, tmp_path: Path) -> None:
    events = run(
        sidecar,
        "with fabmon.job('x') as job:\n"
        "    job.progress(3, 12); job.progress(3, 0); job.progress(1e300, 1e-300); job.progress('far')\n"
        "    job.metric(temperature_c=61.5, bad=float('nan'), worse='hot')\n"
        "    job.metadata({'lot': 7}, step='etch')\n"
        "    job.error(OSError('retried')); job.error('in words')\n"
        "job.progress(1.0)\n",  # not open any more
        tmp_path,
    )
    said = [e["event"] for e in events[1:-1]]
    assert said[0]["metrics"] == {"progress": 0.25, "progress_done": 3, "progress_total": 12}
    assert said[1]["metrics"] == {"progress_done": 3, "progress_total": 0}
    assert said[2]["metrics"] == {"progress_done": 1e300, "progress_total": 1e-300}
    assert (said[3]["metrics"], said[3]["metadata"]) == ({}, {"metrics_left_out": ["progress"]})
    assert said[4]["metrics"] == {"temperature_c": 61.5}
    assert said[4]["metadata"] == {"metrics_left_out": ["bad", "worse"]}
    assert said[5]["metadata"] == {"lot": 7, "step": "etch"}
    assert [(e["kind"], e["status"]) for e in said[6:]] == 2 * [("error", "running")]
    assert [e["metadata"]["survived_error"] for e in said[6:]] == ["OSError: retried", "in words"]
    assert events[-1]["event"]["status"] == "succeeded"
    ats = [e["event"]["at"] for e in events]
    assert ats == sorted(set(ats))


def test_decorators_make_a_run_of_each_call_and_leave_the_function_as_it_was(sidecar: Sidecar, tmp_path: Path) -> None:
    events = run(
        sidecar,
        "import asyncio, inspect\n"
        "@fabmon.job('batch', key='LOT-1', app='runner')\n"
        "def batch(n, *, more=0):\n"
        "    'Doc.'\n"
        "    return n + more + asyncio.run(inner(), debug=False)\n"
        "@fabmon.subjob('inner')\n"
        "async def inner():\n"
        "    await asyncio.sleep(0); fabmon.current().progress(0.25); return 1\n"
        "assert (batch(1), batch(2, more=3)) == (2, 6)\n"
        "assert (batch.__doc__, batch.__name__, inspect.iscoroutinefunction(inner)) == ('Doc.', 'batch', True)\n",
        tmp_path,
    )
    jobs = [e["entity"]["id"] for e in events if e["entity"]["type"] == "job" and e["event"]["kind"] == "started"]
    inner = [e for e in events if e["entity"]["sub_key"] == "inner" and e["event"]["kind"] == "progress"]
    assert len(set(jobs)) == 2
    assert [e["entity"]["parent_id"] for e in inner] == jobs


def test_runs_nest_by_context_over_await_and_tasks(sidecar: Sidecar, tmp_path: Path) -> None:
    events = run(
        sidecar,
        "import asyncio\n"
        "async def step(n):\n"
        "    async with fabmon.subjob(f's{n}'):\n"
        "        await asyncio.sleep(0.01)\n"
        "        with fabmon.job(f'deep{n}', app='other'): await asyncio.sleep(0)\n"
        "async def main():\n"
        "    async with fabmon.job('top', app='a', version='7'):\n"
        "        async with asyncio.TaskGroup() as tasks: [tasks.create_task(step(n)) for n in range(3)]\n"
        "asyncio.run(main(), debug=False)\n"
        "with fabmon.subjob('alone'): pass\n",
        tmp_path,
    )
    by_key = {(e["entity"]["sub_key"] or e["entity"]["business_key"]): e for e in reversed(events)}
    top = by_key["top"]["entity"]["id"]
    for n in range(3):
        step, deep = by_key[f"s{n}"], by_key[f"deep{n}"]
        assert (step["entity"]["parent_id"], step["app"]["name"], step["app"]["version"]) == (top, "a", "7")
        assert (deep["entity"]["parent_id"], deep["app"]["name"]) == (top, "other")
        assert deep["event"]["metadata"]["parent_subjob"] == step["entity"]["id"]
    assert by_key["alone"]["entity"]["type"] == "job"
    # Three at once: nobody can say whose a second of CPU was, and that is what is said. The job around them knows.
    at_end = ends(events)
    assert "cpu_user_s" not in at_end["s0"]["metrics"]
    assert at_end["s0"]["metadata"]["usage_left_out"]
    assert "duration_s" in at_end["s0"]["metrics"]
    assert "cpu_user_s" in at_end["top"]["metrics"]


def test_figures_are_the_runs_own(sidecar: Sidecar, tmp_path: Path) -> None:
    burn = "end = time.process_time() + 0.3\n    while time.process_time() < end: pass\n"
    events = run(
        sidecar,
        "import subprocess, sys, time\n"
        f"if True:\n    {burn}"
        "with fabmon.job('idle'): pass\n"
        f"with fabmon.job('own'):\n    {burn}"
        "with fabmon.job('child'):\n"
        "    subprocess.run([sys.executable, '-c', 'x = b\"x\" * (90 << 20)\\nwhile True:\\n import time\\n"
        " if time.process_time() > 0.3: break'])\n"
        "with fabmon.job('large'): x = b'x' * (150 << 20); del x\n"
        "with fabmon.job('small'): pass\n",
        tmp_path,
    )
    metrics = {key: end["metrics"] for key, end in ends(events).items()}
    cpu_s = {key: each["cpu_user_s"] + each["cpu_system_s"] for key, each in metrics.items()}
    assert cpu_s["idle"] < 0.1
    assert 0.28 <= cpu_s["own"] <= 0.6
    assert 0.28 <= cpu_s["child"] <= 1.0
    assert 90 <= metrics["child"]["mem_max_mb"] <= 140
    assert 150 <= metrics["large"]["mem_max_mb"] <= 220
    assert "mem_max_mb" not in metrics["small"]  # only known to be below the older peak


def test_inside_fabmon_run_a_job_is_a_subjob_of_it(sidecar: Sidecar, tmp_path: Path) -> None:
    program = "import fabmon\nwith fabmon.job('step', key='S1'): pass"
    line = [*FABMON_RUN, "--app", "outer", "--site", "fab7", "--url", sidecar.url, "--", sys.executable, "-c", program]
    subprocess.run(line, env=clean_environment(tmp_path), timeout=60, check=True)
    by_type = {e["entity"]["type"]: e for e in sidecar.expect(4)}
    assert by_type["subjob"]["entity"]["parent_id"] == by_type["job"]["entity"]["id"]
    assert by_type["subjob"]["app"] == by_type["job"]["app"]
    assert by_type["subjob"]["site_id"] == by_type["job"]["site_id"] == "fab7"
    assert by_type["subjob"]["entity"]["sub_key"] == "S1"


def test_settings_of_the_environment(sidecar: Sidecar, tmp_path: Path) -> None:
    job_id = str(uuid4())
    events = run(
        sidecar, "with fabmon.job('x'): pass", tmp_path,
        FABMON_SITE_ID="fab9", FABMON_TOKEN="secret", FABMON_APP="env-app", FABMON_JOB_ID=job_id,
    )  # fmt: skip
    assert (events[0]["site_id"], events[0]["app"]["name"]) == ("fab9", "env-app")
    assert events[0]["entity"]["parent_id"] == job_id
    assert set(sidecar.tokens) == {"Bearer secret"}


def test_importing_it_brings_in_the_standard_library_and_msgspec_only() -> None:
    program = (
        "import sys, msgspec, msgspec.json; before = set(sys.modules)\n"
        "import fabmon; fabmon.job, fabmon.subjob, fabmon.current, fabmon.flush\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))\n"
        "print([name for name in ('http.client', 'asyncio', 'inspect', 'logging', 'ssl', 'subprocess') "
        "if name in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['fabmon']\n[]\n"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_sigterm_is_a_cancellation_and_still_kills(sidecar: Sidecar, tmp_path: Path) -> None:
    program = (
        "import fabmon, time\n"
        "with fabmon.job('outer'):\n"
        "    with fabmon.subjob('inner'): print('ready', flush=True); time.sleep(20)\n"
    )
    environment = {**clean_environment(tmp_path), "FABMON_URL": sidecar.url}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.terminate()
        assert running.wait(30) == -signal.SIGTERM
        assert running.stderr is not None
        assert running.stderr.read() == b""
    at_end = ends(sidecar.events)
    assert {key: end["status"] for key, end in at_end.items()} == {"outer": "canceled", "inner": "canceled"}
    assert at_end["inner"]["metadata"]["signal"] == "SIGTERM"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_programs_own_handling_of_sigterm_is_left_alone(sidecar: Sidecar, tmp_path: Path) -> None:
    run(
        sidecar,
        "import os, signal\n"
        "seen = []\n"
        "with fabmon.job('before'): pass\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
        "with fabmon.job('not watched', watch_sigterm=False):\n"
        "    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
        "signal.signal(signal.SIGTERM, lambda *_: seen.append(1))\n"
        "with fabmon.job('own'): os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert seen == [1]\n",
        tmp_path,
    )
    assert json.dumps(ends(sidecar.events)).count("succeeded") == 3
