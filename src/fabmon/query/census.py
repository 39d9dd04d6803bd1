"""Figures of the site for /metrics: counted now and then by one task, never by whoever scrapes.

An application or a sidecar is a series of its own, up to a bound; past it the smaller applications are counted together.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from fabmon.errors import StoreUnavailable
from fabmon.logs import Log
from fabmon.metrics import SITE
from fabmon.store.census import Census, read_census
from fabmon.store.pool import Pool
from fabmon.store.schema import Schema
from fabmon.tasks import beside

log = Log("fabmon.census")

EVERY_SECONDS: Final = 30.0
MOST_APPS: Final = 100
MOST_SIDECARS: Final = 500
OTHER: Final = "(other)"


@asynccontextmanager
async def take_census(pool: Pool, schema: Schema, stale_after_s: float) -> AsyncIterator[None]:
    """Count at once and then every thirty seconds, as long as the context is open."""
    async with beside("census", _count_always(pool, schema, stale_after_s)):
        yield


async def _count_always(pool: Pool, schema: Schema, stale_after_s: float) -> None:
    while True:
        try:
            await schema.must_match()
            publish(await read_census(pool, stale_after_s))
        except StoreUnavailable as error:
            SITE.clear()  # yesterday's figures would look like today's
            log.debug("census.skipped", reason=str(error))
        await asyncio.sleep(EVERY_SECONDS)


def publish(census: Census) -> None:
    """Set what /metrics shows of it."""
    by_app: Counter[str] = Counter()
    for row in census.running:
        by_app[row["app_name"]] += row["running"]
    for row in census.ended:
        by_app[row["app_name"]] += row["jobs"]
    named = {name for name, _ in by_app.most_common(MOST_APPS)}

    def app(row: Mapping[str, Any]) -> str:
        return str(row["app_name"]) if row["app_name"] in named else OTHER

    jobs: Counter[tuple[str, ...]] = Counter()
    silent: Counter[tuple[str, ...]] = Counter()
    oldest: dict[tuple[str, ...], float] = {}
    for row in census.running:
        jobs[app(row), "running"] += row["running"]
        silent[(app(row),)] += row["silent"]
        oldest[(app(row),)] = max(row["oldest_age_s"], oldest.get((app(row),), 0.0))
    for row in census.ended:
        jobs[app(row), row["status"]] += row["jobs"]
    SITE.set(jobs, silent, oldest, _sidecars(census.sidecars))


def _sidecars(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], tuple[float, float, float]]:
    """Those that hold back the oldest events first."""
    there = [row for row in rows if row["state"] != "stopped"]
    there.sort(key=lambda row: (row["oldest_pending_age_s"] or 0.0, row["pending"]), reverse=True)
    return {
        (str(row["id"]), str(row["host"] or "")): (
            float(row["state"] != "silent"),
            float(row["pending"]),
            float(row["oldest_pending_age_s"] or 0.0),
        )
        for row in there[:MOST_SIDECARS]
    }
