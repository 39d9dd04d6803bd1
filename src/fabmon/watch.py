"""Whether files have changed: for what is read again while a role runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fabmon.clock import monotonic

LOOK_SECONDS: Final = 1.0


class Watch:
    """Made before the files are read for the first time, so that a change in between is not missed."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._paths = [Path(path) for path in paths if path]
        self._seen = self._state()
        self._look_at = monotonic() + LOOK_SECONDS

    def changed(self) -> bool:
        """Whether any of them has changed since this said so last; looks at them once a second at most."""
        if monotonic() < self._look_at:
            return False
        self._look_at = monotonic() + LOOK_SECONDS
        before, self._seen = self._seen, self._state()
        return self._seen != before

    def _state(self) -> list[tuple[int, ...] | None]:
        return [_state(path) for path in self._paths]


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes when the file does; None when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
