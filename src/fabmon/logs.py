"""Logging: one line per request or batch, the event's name first, facts as keys.

Lines are JSON, or `key=value` on a terminal. Nothing here ever sees a payload or a secret: callers pass facts, not bodies.
"""

import asyncio
import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

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


class RequestLines:
    """What is told of requests, a line for each, written apart from `logging`, which takes ten times as long for a line.

    Lines wait for each other, for a twentieth of a second at most; a line of `logging` lets them go before itself.
    """

    on = False

    def __init__(self) -> None:
        self._waiting: list[tuple[float, str, tuple[object, ...]]] = []  # when, the form of the line, its facts
        self._stream: TextIO = sys.stderr
        self._request = self._joined = self._trace = ""
        self._second, self._stamp = 0, ""

    def configure(self, service: str, stream: TextIO, as_json: bool) -> None:
        self._stream = stream
        if as_json:
            head = f'{{"at":"%s.%03dZ","level":"info","service":"{service}","event":'
            self._request = (
                head + '"request","method":"%s","route":"%s","status":%d,"ms":%.3f,'
                '"bytes_in":%d,"bytes_out":%d,"request_id":"%s"%s}\n'
            )
            self._joined = head + '"requests.joined","request_id":"%s","count":%d,"of":"%s"}\n'
        else:
            head = "%s.%03dZ info    "
            self._request = head + "request %s %s status=%d ms=%.3f bytes_in=%d bytes_out=%d request_id=%s%s\n"
            self._joined = head + "requests.joined request_id=%s count=%d of=%s\n"
        self._trace = ',"trace_id":"%s"' if as_json else " trace_id=%s"
        self.on = True

    def add(
        self,
        method: str,
        route: str,
        status: int,
        seconds: float,
        bytes_in: int,
        bytes_out: int,
        request_id: str,
        trace_id: str = "",
    ) -> None:
        """*method*, *route* (its pattern) and the ids hold nothing that JSON would have to escape."""
        trace = self._trace % trace_id if trace_id else ""
        self._put(self._request, (method, route, status, seconds * 1e3, bytes_in, bytes_out, request_id, trace))

    def joined(self, request_id: str, count: int, of: str) -> None:
        """*count* requests, those *of* these ids (some of them, when they are many), go on as *request_id*."""
        self._put(self._joined, (request_id, count, of))

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        lines = []
        for at, form, facts in waiting:
            second = int(at)
            if second != self._second:
                self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            lines.append(form % (self._stamp, (at - second) * 1e3, *facts))
        try:
            self._stream.write("".join(lines))
            self._stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads the log any more; that must not end what it tells of

    def _put(self, form: str, facts: tuple[object, ...]) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_later(_LINES_WAIT_SECONDS, self.flush)
        self._waiting.append((time.time(), form, facts))
        if len(self._waiting) >= _MOST_LINES_WAIT:
            self.flush()


_LINES_WAIT_SECONDS: Final = 0.05
_MOST_LINES_WAIT: Final = 500
REQUEST_LINES: Final = RequestLines()


class _Handler(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        REQUEST_LINES.flush()
        super().emit(record)


def configure(service: str, level: str, stream: TextIO | None = None, *, requests: bool = False) -> None:
    """Send every log line of this process to *stream* (default: standard error); with *requests* one for each request."""
    target = stream or sys.stderr
    if requests and level in ("debug", "info"):
        REQUEST_LINES.configure(service, target, as_json=not target.isatty())
    handler = _Handler(target)
    handler.setFormatter(_Lines(service, as_json=not target.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It tells of each start and stop in its own words; ours say the same with facts.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
