"""No list reads more than a few thousand rows where an index can help: the plans say what was read."""

from typing import Any

import psycopg
from benchmarks.fill import fill
from psycopg import sql

from fabmon.query.params import read_selection
from fabmon.store.jobs import with_names
from fabmon.store.pool import Pool
from fabmon.store.selection import page_sql

JOBS = 60_000
MOST_ROWS = 5_000
QUESTIONS = [
    "",
    "status=failed",
    "status=running",
    "status=!succeeded",
    "app_name=application-7",
    "app_name=nothing",
    "app_id=00000000-0000-0000-0000-000000000000",
    "key=LOT-777",
    "key_prefix=LOT-77",
    "metadata.recipe=R-77",
    "metadata.tool=nothing",
    "metadata.wafers=99",
    "stale=true",
    "order=started_at",
    "order=-ended_at",
    "order=-duration_s",
    "order=-inserted_at",
    "from=2026-01-03&to=2026-01-04",
    "time_field=ended_at&from=2026-01-03&to=2026-01-04&order=-ended_at",
]


async def test_no_list_reads_more_than_a_few_thousand_rows(pool: Pool, database_url: str) -> None:
    fill(database_url, JOBS)
    read = {question: await _rows_read(pool, question) for question in QUESTIONS}
    assert {question: rows for question, rows in read.items() if rows > MOST_ROWS} == {}
    # The measure itself works: a question that no index can help reads everything.
    assert await _rows_read(pool, "order=-progress") >= JOBS


async def _rows_read(pool: Pool, question: str) -> int:
    pairs = [tuple(part.split("=", 1)) for part in question.split("&") if part]
    selection = read_selection("job", [*pairs, ("limit", "100")], 900)  # type: ignore[list-item]
    async with pool.connection() as connection:
        text, values = page_sql(await with_names(connection, selection))
        explain = sql.SQL("explain (analyze, costs off, timing off, format json) {}").format(text)
        async with psycopg.AsyncCursor(connection) as cursor:
            await cursor.execute(explain, values)
            row: Any = await cursor.fetchone()
    return _scanned(next(iter(row.values()))[0]["Plan"])


def _scanned(plan: dict[str, Any]) -> int:
    here = 0
    if "Scan" in plan["Node Type"]:
        here = int((plan.get("Actual Rows", 0) + plan.get("Rows Removed by Filter", 0)) * plan.get("Actual Loops", 1))
    return here + sum(_scanned(part) for part in plan.get("Plans", []))
