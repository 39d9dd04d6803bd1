"""The spool's own name: a UUID that stays with its directory, by which the site tells its sidecars apart."""

from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from fabmon.durable import replace_durably
from fabmon.logs import Log
from fabmon.spool.survey import ID

log = Log("fabmon.spool")

_ID_BYTES: Final = 100  # with blanks around it


def read_id(directory: Path) -> str | None:
    """The id in *directory*; None when there is none that can be read."""
    path = directory / ID
    try:
        if not path.is_file():  # whatever else may lie there could keep a reader waiting
            return None
        with path.open("rb") as file:
            return str(UUID(file.read(_ID_BYTES).decode("ascii").strip()))
    except (OSError, ValueError):
        return None


def read_or_make_id(directory: Path) -> str:
    """The id in *directory*, made when there is none; on a full disk it holds for this run only."""
    found = read_id(directory)
    if found is not None:
        return found
    made = str(uuid4())
    try:
        replace_durably(directory / ID, f"{made}\n".encode())
    except OSError as error:
        log.warning("spool.id_not_kept", directory=directory, reason=error.strerror)
    return made
