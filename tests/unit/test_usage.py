"""What is read from /proc, and what it means; the figures of real programs are in process/test_run.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fabmon.sdk.usage import Tree, descendants, memory_of_several, read_pss, read_stat

FIELDS = "S 41 77 77 0 -1 4194304 9 0 0 0 150 20 7 3 20 0 1 0 12345 99999999 512 18446744073709551615 1 1"


def write_process(proc: Path, pid: int, parent: int, rss_pages: int, pss_kib: int | None = None) -> None:
    fields = FIELDS.split()
    fields[1], fields[21] = str(parent), str(rss_pages)
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "stat").write_text(f"{pid} (x) {' '.join(fields)}\n")
    if pss_kib is not None:
        (proc / str(pid) / "smaps_rollup").write_text(f"0-1 ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss:   {pss_kib} kB\n")


def write_children(proc: Path, pid: int, thread: int, children: list[int]) -> None:
    (proc / f"{pid}/task/{thread}").mkdir(parents=True)
    (proc / f"{pid}/task/{thread}/children").write_text("".join(f"{child} " for child in children))


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine of its own: this process, below it 100 and 101, and 200, which is not ours."""
    page_kib = os.sysconf("SC_PAGE_SIZE") // 1024
    write_process(tmp_path, os.getpid(), 1, 5000)
    write_process(tmp_path, 100, os.getpid(), 40 * 1024 // page_kib, pss_kib=25 * 1024)
    write_process(tmp_path, 101, 100, 40 * 1024 // page_kib, pss_kib=25 * 1024)
    write_process(tmp_path, 200, 1, 400 * 1024 // page_kib, pss_kib=400 * 1024)
    (tmp_path / "self").symlink_to(tmp_path / str(os.getpid()))
    return tmp_path


class Ending(Tree):
    """Process 101 ends in the middle of a look."""

    def _read(self, name: str) -> str:
        if name == "100/smaps_rollup":
            shutil.rmtree(f"{self._proc}/101")
        return super()._read(name)


@pytest.mark.parametrize("name", ["sh", "a b", "x) S 1 (y", "tmux: server", ")"])
def test_a_stat_line_is_read_whatever_the_program_is_called(name: str) -> None:
    found = read_stat(f"42 ({name}) {FIELDS}\n")
    assert found is not None
    assert (found.parent, found.user_ticks, found.system_ticks, found.rss_pages) == (41, 157, 23, 512)


@pytest.mark.parametrize("text", ["", "42 (sh) S 41", "42 (sh) " + FIELDS.replace("150", "many"), "no bracket"])
def test_what_is_no_stat_line_is_none(text: str) -> None:
    assert read_stat(text) is None


def test_pss_is_the_line_of_that_name_alone() -> None:
    assert read_pss("Rss:  900 kB\nPss:    446 kB\nPss_Dirty:  112 kB\n") == 446 * 1024
    assert read_pss("Rss:  900 kB\nPss_Dirty:  112 kB\n") is None
    assert read_pss("Pss:\n") is None


def test_shared_pages_count_once_and_the_largest_process_is_the_floor() -> None:
    assert memory_of_several([100, 100], [60, 60]) == 120
    assert memory_of_several([100, 10], [40, 5]) == 100


def test_descendants_are_found_once_even_in_a_ring() -> None:
    tree = {1: [2, 3], 3: [4], 4: [3, 1]}
    assert sorted(descendants(1, lambda pid: tree.get(pid, []))) == [2, 3, 4]


def test_a_look_without_children_files_asks_every_process_for_its_parent(proc: Path) -> None:
    tree = Tree(str(proc))
    tree.look()
    assert tree.usage().mem_max_mb == 50


def test_a_share_that_is_secret_counts_as_rss_and_one_that_has_gone_not_at_all(proc: Path) -> None:
    (proc / "101" / "smaps_rollup").unlink()
    tree = Tree(str(proc))
    tree.look()
    assert tree.usage().mem_max_mb == 65
    gone = Ending(str(proc))
    gone.look()
    assert gone.usage().mem_max_mb == 40


def test_a_look_with_children_files_follows_every_thread(proc: Path) -> None:
    write_children(proc, os.getpid(), os.getpid(), [])
    write_children(proc, os.getpid(), os.getpid() + 1, [100])
    write_children(proc, 100, 100, [101])
    write_process(proc, 102, 100, 10_000_000, pss_kib=900 * 1024)  # listed by nobody: never read
    tree = Tree(str(proc))
    tree.look()
    assert tree.usage().mem_max_mb == 50


def test_a_child_that_is_none_of_the_programs_counts_neither_alive_nor_reaped(proc: Path) -> None:
    tree = Tree(str(proc), without=100)
    tree.look()
    assert tree.usage().mem_max_mb == 40  # of 101 alone
    program = (
        "import os, sys, time; from fabmon.sdk.usage import Tree\n"
        "burn = 'import time\\nwhile time.process_time() < 0.5: pass'\n"
        "helper = os.posix_spawn(sys.executable, [sys.executable, '-c', burn], os.environ)\n"
        "tree = Tree(without=helper)\n"
        "tree.begin(os.posix_spawnp('sleep', ['sleep', '1'], os.environ))\n"
        "while tree.reap() is None: time.sleep(0.01)\n"
        "print(tree.usage().cpu_user_s)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20)
    assert float(done.stdout) < 0.4


def test_what_still_runs_at_the_end_is_counted(proc: Path) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    usage = Tree(str(proc)).usage()
    assert usage.cpu_user_s == pytest.approx(2 * 157 / tick)
    assert usage.cpu_system_s == pytest.approx(2 * 23 / tick)


def test_looks_become_rarer_and_are_not_made_early(proc: Path) -> None:
    tree = Tree(str(proc))
    first = tree.look()
    assert first >= 0.005
    assert 0 < tree.look() <= first  # not due: the rest of the same pause


def test_without_proc_there_is_the_mark_of_the_largest_process(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from fabmon.sdk.usage import Tree\n"
        f"tree = Tree({str(tmp_path)!r})\n"
        "pid = os.posix_spawnp('python3', [sys.executable, '-c', 'x = bytearray(80 << 20)'], os.environ)\n"
        "tree.begin(pid)\n"
        "while (status := tree.reap()) is None:\n    tree.look(); time.sleep(0.01)\n"
        "print(status, tree.usage().mem_max_mb)"
    )
    # Whoever starts us may have used more than the program will: that must not count, nor hide what the program used.
    starter = "import subprocess, sys; x = bytearray(300 << 20); "
    starter += "sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1]]))"
    command = [sys.executable, "-c", starter, program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    status, peak = done.stdout.split()
    assert status == "0"
    assert 80 <= float(peak) <= 200


def test_it_imports_where_the_posix_modules_are_missing() -> None:
    program = (
        "import subprocess, sys, types\n"  # as it is here
        "for name in ('resource', 'fcntl', 'pwd', 'termios'): sys.modules[name] = None\n"
        "sys.modules['msvcrt'] = types.ModuleType('msvcrt')\n"  # that is there on Windows
        "import signal, os\n"
        "for name in ('SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGCHLD'): delattr(signal, name)\n"
        "for name in ('pthread_sigmask', 'sigtimedwait', 'sigwait'): delattr(signal, name)\n"
        "for name in ('wait4', 'fork', 'posix_spawnp', 'sysconf', 'getpgid', 'getpgrp', 'getsid'): delattr(os, name)\n"
        "sys.platform = 'win32'\n"
        "import fabmon.sdk.usage, fabmon.sdk.child, fabmon.sdk.emitter, fabmon.cli.run\n"
        "command = ['--', sys.executable, '-c', 'exit(3)']\n"
        "sys.exit(fabmon.cli.run.run(['--app', 'x', '--url', 'http://127.0.0.1:1', *command]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (3, "")
