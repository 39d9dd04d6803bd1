"""Read jobs and subjobs."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from fabmon.errors import BadParameter
from fabmon.store.named import query
from fabmon.store.pool import Connection, Pool, translated
from fabmon.store.selection import (
    APP_NAME_LIKE,
    DEFAULT_LIMIT,
    SHOWN,
    Selection,
    count_sql,
    export_sql,
    is_one_of,
    narrow_sql,
    page_sql,
)

COUNT_LIMIT: Final = 50_000
FEW_ROWS: Final = 5_000
_EXPORT_BLOCK_BYTES: Final = 64 * 1024


class Page(msgspec.Struct):
    """Rows as the answer shows them, and the sort value and id of the last one when there are more."""

    items: list[dict[str, Any]]
    last: tuple[str | None, str] | None


async def read_page(pool: Pool, selection: Selection) -> Page:
    """One page of *selection*; raises StoreUnavailable."""
    async with translated(f"read {selection.entity_type}s"), pool.connection() as connection:
        named = await with_names(connection, selection)
        text, values = page_sql(named, filter_first=await is_narrow(connection, named))
        try:
            # Never prepared: a plan that is kept would be made without the values, and it is they that matter.
            rows = await (await connection.execute(text, values, prepare=False)).fetchall()
        except psycopg.DataError:
            # Everything else was checked; only a cursor that somebody wrote can hold what PostgreSQL cannot read.
            raise BadParameter("cursor", "not a cursor of this API") from None
    last = None
    if len(rows) > (selection.limit or DEFAULT_LIMIT):
        rows.pop()
        last = (rows[-1]["cursor_value"], str(rows[-1]["cursor_id"]))
    for row in rows:
        del row["cursor_value"], row["cursor_id"]
    return Page(rows, last)


async def is_narrow(connection: Connection, selection: Selection) -> bool:
    """Whether few rows are left, whatever PostgreSQL thinks of it: then they are found first, and sorted."""
    asked = narrow_sql(selection, FEW_ROWS)
    if asked is None:
        return False
    row = await (await connection.execute(*asked, prepare=False)).fetchone()
    return row is not None and int(row["total"]) <= FEW_ROWS


async def count(pool: Pool, selection: Selection) -> tuple[int, bool]:
    """How many rows *selection* has on all its pages, and whether that is all: counting stops at 50,000."""
    async with translated("count"), pool.connection() as connection:
        text, values = count_sql(await with_names(connection, selection), COUNT_LIMIT)
        row = await (await connection.execute(text, values, prepare=False)).fetchone()
    total = int(row["total"]) if row else 0
    return min(total, COUNT_LIMIT), total <= COUNT_LIMIT


async def export(pool: Pool, selection: Selection, form: Literal["csv", "ndjson"]) -> AsyncIterator[bytes]:
    """The whole selection as CSV with a header, or a JSON object a line; memory does not grow with it."""
    text, settings = export_sql(selection, form)
    async with translated("export"), pool.connection() as connection, connection.transaction():
        # A large export may take longer than a question; it still ends with its reader.
        await connection.execute("set local statement_timeout = '1h'")
        for name, value in settings.items():
            await connection.execute("select set_config(%s, %s, true)", [name, value])
        async with connection.cursor() as cursor, cursor.copy(text) as copy:
            # COPY gives a row at a time; a row at a time on the socket would cost more than the rest.
            rows: list[bytes] = []
            size = 0
            async for row in copy:
                rows.append(bytes(row))
                size += len(row)
                if size >= _EXPORT_BLOCK_BYTES:
                    yield b"".join(rows)
                    rows, size = [], 0
            yield b"".join(rows)


async def with_names(connection: Connection, selection: Selection) -> Selection:
    """The selection with every "contains" replaced by the names that do; or, excluded, by those that do not."""
    conditions = []
    for condition in selection.conditions:
        if condition.text == APP_NAME_LIKE:
            values = {**condition.values, "wanted": not condition.negated}
            found = await connection.execute(query(f"{selection.entity_type}_names"), values)
            condition = is_one_of("app_name", [row["app_name"] for row in await found.fetchall()])
        conditions.append(condition)
    return msgspec.structs.replace(selection, conditions=tuple(conditions))


async def read_run(pool: Pool, entity_type: Literal["job", "subjob"], run: UUID) -> dict[str, Any] | None:
    """One job or subjob, as a list shows it; None when there is none."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} as {}").format(sql.SQL(text), sql.Identifier(name)) for name, text in SHOWN[entity_type].items()
    )
    text = sql.SQL("select {} from {} where id = %s order by site_id limit 1").format(
        columns, sql.Identifier(entity_type)
    )
    async with translated(f"read a {entity_type}"), pool.connection() as connection:
        return await (await connection.execute(text, [run])).fetchone()


async def read_run_events(
    pool: Pool, entity_type: str, run: UUID, after: tuple[datetime, str, UUID] | None, limit: int
) -> list[dict[str, Any]]:
    """The events of a run in the order of their meaning (time, rank, key); at most *limit* and one."""
    values = {
        "entity_type": entity_type,
        "run": run,
        "after_at": after[0] if after else None,
        "after_kind": after[1] if after else None,
        "after_key": after[2] if after else None,
        "limit": limit + 1,
    }
    async with translated("read events"), pool.connection() as connection:
        return await (await connection.execute(query("read_run_events"), values)).fetchall()
