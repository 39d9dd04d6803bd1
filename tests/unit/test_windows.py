"""Equipment PCs run Windows: sidecar, SDK and `fabmon run` import there, without what only POSIX has."""

import subprocess
import sys

# The libraries are imported as they are here; then the platform changes, what Windows lacks is hidden, and ours follows.
SCRIPT = """
import asyncio, sys, types
import aiohttp, msgspec, psycopg, psycopg_pool, uvicorn, starlette.applications, typer, rich.table
sys.platform = "win32"
for name in ("fcntl", "resource", "pwd", "grp", "termios", "uvloop", "posix"):
    sys.modules[name] = None
sys.modules["msvcrt"] = types.SimpleNamespace(locking=lambda *_: None, LK_NBLCK=1)
for name in [name for name in sys.modules if name.startswith("fabmon")]:
    del sys.modules[name]
import fabmon.roles.sidecar, fabmon.run, fabmon.cli.run, fabmon.cli.app, fabmon.cli.serve, fabmon.cli.spool
import fabmon.sdk.context, fabmon.spool.spool

async def spool(path):
    async with fabmon.spool.spool.open_spool(path, 10**7) as opened:
        await opened.append([b"{}"])
        return opened.pending

from pathlib import Path
print(asyncio.run(spool(Path(sys.argv[1]))))
"""


def test_what_runs_on_windows_imports_with_posix_hidden(tmp_path: object) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


def test_a_sidecar_has_no_database_driver_in_its_memory() -> None:
    program = "import sys, fabmon.cli.serve, fabmon.roles.sidecar; print('psycopg' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
