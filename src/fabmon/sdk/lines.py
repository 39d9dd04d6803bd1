"""Progress and figures from a program that `fabmon run` has started: lines on the file descriptor FABMON_EVENTS_FD.

    progress 0.5            or   progress 3/12
    metric temperature_c=61.5 wafers=25
    {"progress": 0.5, "metrics": {"temperature_c": 61.5}, "metadata": {"step": "etch"}}

The pipe itself: pipe.py.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

from fabmon.sdk.events import METRICS_LIMIT, metadata_of, numbers_of
from fabmon.sdk.pipe import Pipe
from fabmon.wire.codec import decode_object
from fabmon.wire.event import Kind

LINE_LIMIT_BYTES: Final = 64 * 1024
_READ_BYTES: Final = 64 * 1024
# What lies in the pipe at the end is little; this is for a machine that is very busy.
_LAST_LINES_SECONDS: Final = 2.0


class Said(NamedTuple):
    """What one line says."""

    kind: Kind
    metrics: dict[str, float]
    metadata: dict[str, Any]


class Lines:
    """The reader of *pipe*: from when it is made until `stop`."""

    def __init__(self, pipe: Pipe, take: Callable[[Said], None]) -> None:
        self._pipe = pipe
        self._take = take
        self.not_understood = 0
        self._thread: threading.Thread | None = threading.Thread(target=self._read, name="fabmon-lines", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads: the job goes on, its lines are not read
            self._thread = None

    def stop(self) -> None:
        """Take what was written up to now."""
        if self._thread is not None:
            with suppress(OSError):
                os.write(self._pipe.writer, b"\n\0\n")  # behind the program's last line
            self._thread.join(_LAST_LINES_SECONDS)

    def _read(self) -> None:
        rest = b""
        while part := os.read(self._pipe.reader, _READ_BYTES):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if line == b"\0":
                    return
                self._take_line(line)
            if len(rest) > LINE_LIMIT_BYTES:
                self.not_understood += 1
                rest = b""

    def _take_line(self, line: bytes) -> None:
        said = read_line(line)
        if said is not None:
            self._take(said)
        elif line.strip():
            self.not_understood += 1


def read_line(line: bytes) -> Said | None:
    """What *line* says; None when it is not understood."""
    line = line.strip()
    if line.startswith(b"{"):
        return _read_object(decode_object(line))
    word, _, rest = line.decode(errors="replace").partition(" ")
    if word == "progress":
        done, over, total = rest.partition("/")
        numbers, wrong = numbers_of({"done": _number(done), "total": _number(total) if over else 1.0})
        if wrong or not numbers["total"]:
            return None
        return Said("progress", {"progress": numbers["done"] / numbers["total"]}, {})
    if word == "metric":
        pairs = dict(pair.partition("=")[::2] for pair in rest.split())
        numbers, wrong = numbers_of({name: _number(value) for name, value in pairs.items()})
        return Said("metric", numbers, {}) if numbers and not wrong and len(numbers) <= METRICS_LIMIT else None
    return None


def _read_object(said: dict[str, Any] | None) -> Said | None:
    if said is None or not said or set(said) - {"progress", "metrics", "metadata"}:
        return None
    metrics, metadata = said.get("metrics", {}), said.get("metadata", {})
    if not isinstance(metrics, dict) or not isinstance(metadata, dict) or len(metrics) >= METRICS_LIMIT:
        return None
    progress = {"progress": said["progress"]} if "progress" in said else {}
    numbers, wrong = numbers_of({**metrics, **progress})
    return None if wrong else Said("progress" if progress else "metric", numbers, metadata_of(metadata))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
