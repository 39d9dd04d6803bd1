"""The body of a batch on its way to a site: the events' bytes as they came, packed where that pays.

gzip at its lowest level costs about half of the CPU that the sidecar needs without, and leaves a small part of a batch's
bytes; of a single event it leaves most. So it is used towards another machine, for bodies of some size.
"""

import asyncio
import zlib
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from fabmon.hosts import is_loopback

_PACKED_FROM_BYTES: Final = 4096
# Longer ones are packed beside the event loop; a batch of 4 MiB takes some 20 ms.
_IN_THREAD_FROM_BYTES: Final = 65_536
_GZIP: Final = 16 + zlib.MAX_WBITS


def packs_towards(url: str, wanted: str) -> bool:
    """Whether bodies to *url* are packed, as *wanted*: `always`, `never`, or `auto`, to another machine."""
    return wanted == "always" or (wanted == "auto" and not is_loopback(urlsplit(url).hostname or ""))


class Array(aiohttp.payload.Payload):
    """A JSON array around *events*, joined by commas; of plain bytes aiohttp makes a copy, to put the head before them."""

    def __init__(self, events: bytes) -> None:
        super().__init__(events, content_type="application/json")
        self._events = events
        self._size = len(events) + 2

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        for part in (b"[", self._events, b"]"):
            await writer.write(part)

    async def write_with_length(self, writer: aiohttp.abc.AbstractStreamWriter, content_length: int | None) -> None:
        await self.write(writer)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return f"[{self._events.decode(encoding, errors)}]"


async def packed(events: bytes) -> bytes | None:
    """The same array as gzip; None when it is too short for that."""
    if len(events) < _PACKED_FROM_BYTES:
        return None
    return await asyncio.to_thread(_pack, events) if len(events) > _IN_THREAD_FROM_BYTES else _pack(events)


def _pack(events: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    return b"".join((*map(packer.compress, (b"[", events, b"]")), packer.flush()))
