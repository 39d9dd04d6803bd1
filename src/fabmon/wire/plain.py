"""Events, ids and times without msgspec, uuid and datetime: what `fabmon run` needs in front of every job of a fab.

It starts a program at once and may be done before those would have been imported. The JSON written here is what
wire/codec.py would write, and the ids are those of wire/ids.py; tests/unit/test_plain.py compares them.
"""

from __future__ import annotations

import os
import time

try:
    from _sha1 import sha1  # type: ignore[import-not-found]  # what hashlib gives, without loading OpenSSL
except ImportError:
    from hashlib import sha1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

_NAMESPACE: Final = bytes.fromhex("7a3e51c40d5b4f0c9a516f1d0b8f2c11")  # wire.ids.APP_NAMESPACE
_ESCAPES: Final = {number: f"\\u{number:04x}" for number in range(32)} | {
    ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r", 8: "\\b", 12: "\\f",
}  # fmt: skip


def new_id() -> str:
    """A UUID of version 7: milliseconds since 1970, then chance.

    Ids that were made together lie together in the site's indexes. With millions of keys there, storing one costs about
    half of what one of chance alone costs.
    """
    return _uuid((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10), 7)


def id_of_name(name: str) -> str:
    """As uuid5 in our namespace: the id of an application."""
    return _uuid(sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest(), 5)


def at(seconds: float | None = None) -> str:
    """A time, by default now, as RFC 3339 in UTC."""
    microseconds = time.time_ns() // 1000 if seconds is None else int(seconds * 1e6)
    whole, rest = divmod(microseconds, 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{rest:06d}Z"


def event_of(
    site_id: str,
    app: Mapping[str, Any],
    entity: Mapping[str, Any],
    kind: str,
    at: str,
    status: str,
    metrics: Mapping[str, float | None],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """A new event with a key of its own; a metric without a value is left out."""
    return {
        "idempotency_key": new_id(),
        "site_id": site_id,
        "app": app,
        "entity": entity,
        "event": {
            "kind": kind,
            "at": at,
            "status": status,
            "metrics": {name: value for name, value in metrics.items() if value is not None},
            "metadata": metadata,
        },
    }


def encode(value: object) -> bytes:
    """*value* as JSON: of texts, finite numbers, True, False, None, dicts and lists.

    Raises UnicodeEncodeError for text that is no valid UTF-8.
    """
    return _json(value).encode()


def _json(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.translate(_ESCAPES) + '"'
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    return "{" + ",".join(f"{_json(name)}:{_json(part)}" for name, part in value.items()) + "}"


def _uuid(some: bytes, version: int) -> str:
    number = bytearray(some[:16])
    number[6] = number[6] & 0x0F | version << 4
    number[8] = number[8] & 0x3F | 0x80
    text = number.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
