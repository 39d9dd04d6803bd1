"""Who runs PostgreSQL, and what that account can reach: PostgreSQL refuses to run as root. POSIX only.

As root we run it as the owner of an existing data directory, else as `postgres`, else as `nobody`; no account is made.
The socket directory is closed to everybody else, since whoever reaches the socket is the database's superuser.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fabmon.errors import StartError
from fabmon.logs import Log

SOCKET_PATH_BYTES = 86  # with "/.s.PGSQL.5432" it stays below macOS' 104

log = Log(__name__)


def choose_account(data: Path) -> tuple[int, int] | None:
    """uid and gid that PostgreSQL runs as; None: as we do."""
    if os.getuid() != 0:
        return None
    if (data / "PG_VERSION").exists() and data.stat().st_uid != 0:
        return data.stat().st_uid, data.stat().st_gid
    import pwd

    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known and known[name].pw_uid != 0:
            return known[name].pw_uid, known[name].pw_gid
    raise StartError("PostgreSQL does not run as root, and there is no account `postgres` or `nobody` to run it")


def give(directory: Path, account: tuple[int, int] | None) -> None:
    if account is None or directory.stat().st_uid == account[0]:
        return
    for path in (*directory.rglob("*"), directory):  # the top last: a killed walk is done again
        os.chown(path, *account, follow_symlinks=False)


def let_search(paths: Sequence[Path]) -> None:
    """Let the account pass through root's directories on the way to *paths*: o+x alone, nothing becomes readable."""
    opened = []
    for directory in sorted({parent for path in paths for parent in (path, *path.parents)}):
        now = directory.stat()
        if now.st_uid == 0 and not now.st_mode & stat.S_IXOTH:
            directory.chmod(stat.S_IMODE(now.st_mode) | stat.S_IXOTH)
            opened.append(str(directory))
    if opened:
        log.warning(
            "embedded.search_bit",
            action="added o+x, for the account that runs PostgreSQL",
            directories=" ".join(opened),
        )


def socket_path(directory: Path) -> Path:
    inside = directory / "socket"
    if len(os.fsencode(inside)) < SOCKET_PATH_BYTES and not {",", '"'} & set(str(inside)):
        return inside
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path(tempfile.gettempdir()).resolve() / f"fabmon-{name}"


def make_socket_directory(path: Path, account: tuple[int, int] | None) -> None:
    """Mode 0700 and ours; in a temporary directory somebody else may have taken the name."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    owners = {os.getuid(), account[0] if account else os.getuid()}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners:
        raise StartError(f"{path} belongs to uid {found.st_uid}: remove it, it is to hold PostgreSQL's socket")
    path.chmod(0o700)
    if account is not None:
        os.chown(path, *account, follow_symlinks=False)
