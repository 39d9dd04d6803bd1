"""The change feed: stored events in the order of their commits, without gaps.

A position is (transaction id, sequence). An event is shown only when its transaction lies below every transaction that is
still running, so nothing can ever appear before what was shown: not a late commit, not another writer's.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from fabmon.store.named import query
from fabmon.store.pool import Pool, translated

_POSITION: Final = re.compile(r"\A([0-9]{1,20})-([0-9]{1,19})\Z")
_MOST_TX: Final = 2**64 - 1
_MOST_SEQ: Final = 2**63 - 1


class Position(msgspec.Struct, frozen=True, order=True):
    tx: int
    seq: int

    def __str__(self) -> str:
        return f"{self.tx}-{self.seq}"


class Change(msgspec.Struct, frozen=True):
    """An event with its place in the feed; `event` has the keys of the stream's answer."""

    position: Position
    event: dict[str, Any]


def read_position(text: str) -> Position | None:
    """The position that *text* spells, or None."""
    match = _POSITION.match(text)
    if match is None or int(match[1]) > _MOST_TX or int(match[2]) > _MOST_SEQ:
        return None
    return Position(int(match[1]), int(match[2]))


async def read_head(pool: Pool) -> Position:
    """The position from which on everything that is stored from now on will come."""
    async with translated("read the head of the change feed"), pool.connection() as connection:
        row = await (await connection.execute(query("read_head"))).fetchone()
    assert row is not None  # noqa: S101 - one row by construction
    return Position(int(row["tx"]), 0)


async def read_changes(pool: Pool, after: Position, limit: int) -> Sequence[Change]:
    """At most *limit* events behind *after*, in order; fewer means that there are no more now."""
    values = {"tx": str(after.tx), "seq": after.seq, "page": limit}
    async with translated("read the change feed"), pool.connection() as connection:
        rows = await (await connection.execute(query("read_changes"), values, prepare=True)).fetchall()
    return [Change(Position(int(row.pop("tx")), row.pop("seq")), row) for row in rows]
