"""No list reads more than a few thousand rows where an index can help: the plans say what was read."""

from typing import Any

import psycopg
from benchmarks.fill import fill
from psycopg import sql

from fabmon.query.params import read_selection
from fabmon.store.jobs import is_narrow, with_names
from fabmon.store.pool import Pool
from fabmon.store.selection import page_sql

JOBS = 60_000
MOST_ROWS = 5_000
QUESTIONS = [
    "",
    "status=failed",
    "status=running",
    "status=failed,canceled",
    "status=!succeeded",
    "status=!succeeded,failed,canceled",
    "app_name=application-7",
    "app_name=application-1",
    "app_name=nothing",
    "app_name=!application",
    "app_id=00000000-0000-0000-0000-000000000000",
    "key=LOT-777",
    "key=!LOT-777",
    "key_prefix=LOT-777",
    "key_prefix=LOT-7777&order=-ended_at",
    "key_prefix=LOT",
    "metadata.recipe=R-77",
    "metadata.tool=nothing",
    "metadata.tool=!TOOL-7",
    "metadata.wafers=9",
    "metadata.wafers=99",
    "stale=true",
    "order=started_at",
    "order=-ended_at",
    "order=-duration_s",
    "order=-cpu_user_s",
    "order=cpu_system_s",
    "order=-mem_max_mb",
    "order=-inserted_at",
    "order=job_key",
    "from=2026-01-03&to=2026-01-04",
    "from=2026-01-03&to=2026-01-04&order=-mem_max_mb",
    "time_field=ended_at&from=2026-01-03&to=2026-01-04&order=-ended_at",
    "time_field=ended_at&from=2026-01-03&to=2026-01-04",
    "time_field=inserted_at&from=2026-01-03&to=2026-01-04",
    "time_field=inserted_at&to=2026-01-02",
    "time_field=active&from=2026-01-03&to=2026-01-04",
]


async def test_no_list_reads_more_than_a_few_thousand_rows(pool: Pool, database_url: str, soak: int) -> None:
    """`--soak 17` makes a million jobs."""
    fill(database_url, JOBS * soak)
    read = {question: await _rows_read(pool, question) for question in QUESTIONS}
    assert {question: rows for question, rows in read.items() if rows > MOST_ROWS} == {}
    # The measure itself works: a question that no index can help reads everything.
    assert await _rows_read(pool, "order=-progress") >= JOBS * soak


async def _rows_read(pool: Pool, question: str) -> int:
    pairs = [tuple(part.split("=", 1)) for part in question.split("&") if part]
    selection = read_selection("job", [*pairs, ("limit", "100")], 900)  # type: ignore[list-item]
    async with pool.connection() as connection:
        named = await with_names(connection, selection)
        text, values = page_sql(named, filter_first=await is_narrow(connection, named))
        explain = sql.SQL("explain (analyze, costs off, timing off, format json) {}").format(text)
        async with psycopg.AsyncCursor(connection) as cursor:
            await cursor.execute(explain, values)
            row: Any = await cursor.fetchone()
    return _scanned(next(iter(row.values()))[0]["Plan"])


def _scanned(plan: dict[str, Any]) -> int:
    here = 0
    if "Relation Name" in plan:
        here = int((plan.get("Actual Rows", 0) + plan.get("Rows Removed by Filter", 0)) * plan.get("Actual Loops", 1))
    return here + sum(_scanned(part) for part in plan.get("Plans", []))
