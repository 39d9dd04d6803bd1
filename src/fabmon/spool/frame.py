"""One record of a segment as a line: `CRC32 SEQUENCE JSON\\n`. Drawn in docs/spool-format.md.

Pure: bytes in, bytes out. The checksum covers the sequence and the JSON, so a line that was moved or renumbered is no
record either.
"""

import re
from zlib import crc32

import msgspec

_LINE = re.compile(rb"\A([0-9a-f]{8}) (([1-9][0-9]{0,18}) (.+))\Z", re.DOTALL)


class Record(msgspec.Struct, frozen=True):
    seq: int
    raw: bytes


def write_line(seq: int, raw: bytes) -> bytes:
    """The line of a record; *raw* is JSON without line breaks."""
    body = b"%d %b" % (seq, raw)
    return b"%08x %b\n" % (crc32(body), body)


def read_line(line: bytes) -> Record | None:
    """The record in *line* (without its line break), or None when a single bit of it is not as written."""
    match = _LINE.match(line)
    if match is None or crc32(match[2]) != int(match[1], 16):
        return None
    return Record(int(match[3]), match[4])
