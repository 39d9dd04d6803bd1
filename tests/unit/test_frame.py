"""A record is what was written, to the last bit, or it is none."""

from hypothesis import given
from hypothesis import strategies as st

from fabmon.spool.frame import Record, read_line, write_line

RAWS = st.binary(min_size=1, max_size=200).filter(lambda raw: b"\n" not in raw)
SEQS = st.integers(1, 2**62)


@given(seq=SEQS, raw=RAWS)
def test_what_was_written_is_read(seq: int, raw: bytes) -> None:
    line = write_line(seq, raw)
    assert line.endswith(b"\n")
    assert read_line(line[:-1]) == Record(seq, raw)


@given(seq=SEQS, raw=RAWS, data=st.data())
def test_one_changed_byte_is_no_record(seq: int, raw: bytes, data: st.DataObject) -> None:
    line = bytearray(write_line(seq, raw)[:-1])
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= data.draw(st.integers(1, 255))
    assert read_line(bytes(line)) is None


@given(seq=SEQS, raw=RAWS, data=st.data())
def test_a_cut_line_is_no_record(seq: int, raw: bytes, data: st.DataObject) -> None:
    line = write_line(seq, raw)[:-1]
    assert read_line(line[: data.draw(st.integers(0, len(line) - 1))]) is None


def test_zeros_and_random_text_are_no_record() -> None:
    for line in (b"", b"\0" * 8, b"\0" * 64, b"00000000 0 ", b"00000000 1 ", b"5f3a9c01 1 {}", b"{}"):
        assert read_line(line) is None
