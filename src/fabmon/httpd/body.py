"""The body of a request, bounded before and after decompression."""

import zlib
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from fabmon.errors import BadEncoding, TooLarge

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """The whole body, unpacked; never more than *limit_bytes* in memory.

    Raises TooLarge, BadEncoding, or ClientDisconnect when the caller went away before the end.
    """
    headers = dict(scope["headers"])
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b"gzip", b""):
        raise BadEncoding("Content-Encoding may be gzip or identity")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit_bytes:
        raise TooLarge(f"the body holds {int(length)} bytes; at most {limit_bytes} are taken", "body_too_large")
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise TooLarge(f"the body holds more than {limit_bytes} bytes", "body_too_large")
        parts.append(part)
        more = message.get("more_body", False)
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    return _gunzip(body, limit_bytes) if encoding == b"gzip" else body


def _gunzip(packed: bytes, limit_bytes: int) -> bytes:
    """Unpack one gzip member, and stop as soon as it is too long."""
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        body = unpacker.decompress(packed, limit_bytes + 1)
    except zlib.error as error:
        raise BadEncoding(f"the body is no gzip: {error}") from None
    if len(body) > limit_bytes:
        raise TooLarge(f"the body unpacks to more than {limit_bytes} bytes", "body_too_large")
    if not unpacker.eof:
        raise BadEncoding("the gzip body is cut short")
    if unpacker.unused_data:
        raise BadEncoding("there are bytes behind the gzip body")
    return body
