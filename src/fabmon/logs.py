"""Logging: one line per request or batch, the event's name first, facts as keys.

Lines are JSON, or `key=value` on a terminal. Nothing here ever sees a payload or a secret: callers pass facts, not bodies.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import msgspec

from fabmon.clock import now


class Log:
    """A logger whose calls take facts as keywords: `log.warning("peer.unreachable", peer=url, retry_in_seconds=2.0)`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **facts: object) -> None:
        self._logger.debug(event, extra={"facts": facts})

    def info(self, event: str, **facts: object) -> None:
        self._logger.info(event, extra={"facts": facts})

    def warning(self, event: str, **facts: object) -> None:
        self._logger.warning(event, extra={"facts": facts})

    def error(self, event: str, exc_info: bool | BaseException = False, **facts: object) -> None:
        self._logger.error(event, exc_info=exc_info, extra={"facts": facts})


class _Lines(logging.Formatter):
    def __init__(self, service: str, as_json: bool) -> None:
        super().__init__()
        self._service = service
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        facts: MutableMapping[str, Any] = dict(getattr(record, "facts", {}))
        event = record.getMessage()
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        at = now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._as_json:
            line = {"at": at, "level": record.levelname.lower(), "service": self._service, "event": event, **facts}
            return msgspec.json.encode({key: _plain(value) for key, value in line.items()}).decode()
        shown = " ".join(f"{key}={_plain(value)}" for key, value in facts.items())
        return f"{at} {record.levelname.lower():7} {event} {shown}".rstrip()


def configure(service: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to *stream* (default: standard error)."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(_Lines(service, as_json=not target.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It tells of each start and stop in its own words; ours say the same with facts.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
