"""The spool's own name: a UUID that stays with its directory, by which the site tells its sidecars apart."""

from contextlib import suppress
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


class Identity:
    """The id in *directory*, made when there is none; on a full disk it is kept as soon as there is room (`keep`)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        found = read_id(directory)
        self.is_kept = found is not None
        self.id = found or str(uuid4())
        if found is None and not self.keep():
            log.warning("spool.id_not_kept", directory=directory, action="trying again when events are kept")

    def keep(self) -> bool:
        """Write it, if that is still to be done; whether it is durable."""
        if not self.is_kept:
            with suppress(OSError):
                replace_durably(self._directory / ID, f"{self.id}\n".encode())
                self.is_kept = True
        return self.is_kept
