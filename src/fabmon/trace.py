"""What a request carries from process to process: its id, and its place in a trace (W3C Trace Context).

It is held beside the request (a ContextVar: every request is a task). Calls to another fabmon pass it on; calls for several
requests at once, as the sidecar's joined batches are, have an id of their own (`joined`).
"""

import re
import secrets
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from itertools import count
from typing import Final

import msgspec

_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,100}")
_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE: Final = re.compile(rb"[\x20-\x7e]{1,512}")
# Random once, then counted: unique, and cheaper than random each time.
_PREFIX: Final = secrets.token_hex(6)
_NUMBERS: Final = count(1)


class Carried(msgspec.Struct, frozen=True):
    request_id: str
    traceparent: str = ""
    tracestate: str = ""

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    def headers(self) -> dict[str, str]:
        """For the next process."""
        found = {"x-request-id": self.request_id}
        if self.traceparent:
            found["traceparent"] = self.traceparent
            if self.tracestate:
                found["tracestate"] = self.tracestate
        return found


current: Final[ContextVar[Carried | None]] = ContextVar("fabmon_carried", default=None)
"""Of the request under way; None in what nobody asked for."""


def arrived(headers: Iterable[tuple[bytes, bytes]]) -> Carried:
    """What a request brought; an id is made where there is none, or one that is not fit for a log."""
    request_id = traceparent = tracestate = ""
    for name, value in headers:
        if name == b"x-request-id" and _ID.fullmatch(value):
            request_id = value.decode("ascii")
        elif name == b"traceparent" and _TRACEPARENT.fullmatch(value):
            traceparent = value.decode("ascii")
        elif name == b"tracestate" and _TRACESTATE.fullmatch(value):
            tracestate = value.decode("ascii")
    return Carried(request_id or new_id(), traceparent, tracestate)


def new_id() -> str:
    return f"{_PREFIX}-{next(_NUMBERS):x}"


def joined(requests: Sequence[Carried]) -> Carried:
    """What one call for all of *requests* carries: the only one's own, else a new id and the trace of none of them."""
    return requests[0] if len(requests) == 1 else Carried(new_id())
