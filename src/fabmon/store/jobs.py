"""Read jobs and subjobs."""

from typing import Any

import msgspec
import psycopg

from fabmon.errors import BadParameter
from fabmon.store.pool import Pool, translated
from fabmon.store.selection import Selection, page_sql


class Page(msgspec.Struct):
    """Rows as the answer shows them, and the sort value and id of the last one when there are more."""

    items: list[dict[str, Any]]
    last: tuple[str | None, str] | None


async def read_page(pool: Pool, selection: Selection) -> Page:
    """One page of *selection*; raises StoreUnavailable."""
    text, values = page_sql(selection)
    async with translated(f"read {selection.entity_type}s"), pool.connection() as connection:
        try:
            rows = await (await connection.execute(text, values)).fetchall()
        except psycopg.DataError:
            # Everything else was checked; only a cursor that somebody wrote can hold what PostgreSQL cannot read.
            raise BadParameter("cursor", "not a cursor of this API") from None
    last = None
    if len(rows) > selection.limit:
        rows.pop()
        last = (rows[-1]["cursor_value"], str(rows[-1]["cursor_id"]))
    for row in rows:
        del row["cursor_value"], row["cursor_id"]
    return Page(rows, last)
