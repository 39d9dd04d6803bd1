"""Counting dead letters: of any file, in pieces, and beside a spool that goes on."""

import io
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabmon.clock import now
from fabmon.spool import letters
from fabmon.spool.dead import Letter
from fabmon.spool.letters import count_lines
from fabmon.spool.spool import open_spool
from tests.unit.test_spool import LIMIT, raws

AN_EVENT = b'{"seq":0,"code":"x","event":{"n":1}}\n'


@given(parts=st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\n\n"])), block=st.integers(1, 5))
def test_lines_that_are_not_blank_are_counted_wherever_a_piece_ends(parts: list[bytes], block: int) -> None:
    content = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters, "_BLOCK_BYTES", block)
        assert count_lines(io.BytesIO(content)) == sum(1 for line in io.BytesIO(content) if line != b"\n")


async def test_a_large_file_of_letters_delays_neither_start_nor_events(tmp_path: Path) -> None:
    async with open_spool(tmp_path, LIMIT) as spool:
        await spool.append(raws(2))
    (tmp_path / "dead.jsonl").write_bytes(AN_EVENT * 3_000_000)
    begun = time.process_time()
    async with open_spool(tmp_path, LIMIT) as spool:
        assert time.process_time() - begun < 1.0  # its last 32 MiB are read
        spool.recount_dead_letters()
        begun = time.process_time()
        await spool.append(raws(1, 2))
        records = await spool.read()
        await spool.acknowledge(1, [Letter(records[0], "x", "", 422, 1, now(), now())])
        assert time.process_time() - begun < 0.5
        assert await spool.look_at_dead_letters() in (3_000_000, 3_000_001)
        assert await spool.look_at_dead_letters() == 3_000_001
