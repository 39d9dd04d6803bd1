"""One record of a segment as a line: `CRC32 SEQUENCE JSON\\n`. Drawn in docs/spool-format.md.

Pure: bytes in, bytes out. The checksum covers the sequence and the JSON, so a line that was moved or renumbered is no
record either.
"""

from zlib import crc32

import msgspec


class Record(msgspec.Struct, frozen=True):
    seq: int
    raw: bytes


def write_line(seq: int, raw: bytes) -> bytes:
    """The line of a record; *raw* is JSON without line breaks."""
    body = b"%d %b" % (seq, raw)
    return b"%08x %b\n" % (crc32(body), body)


def read_line(line: bytes) -> Record | None:
    """The record in *line* (without its line break), or None when a single bit of it is not as written."""
    body = line[9:]
    if line[:9] != b"%08x " % crc32(body):
        return None
    number, _, raw = body.partition(b" ")
    if not raw or not number.isdigit() or number.startswith(b"0") or len(number) > 19:
        return None
    return Record(int(number), raw)
