"""The figures of a site for /metrics."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from fabmon import metrics
from fabmon.clock import monotonic
from fabmon.query.census import MOST_APPS, OTHER, publish
from fabmon.store.census import Census, read_census
from fabmon.store.events import write_events
from fabmon.store.named import query
from fabmon.store.pool import Pool
from fabmon.store.sidecars import Heard, write_contacts
from fabmon.wire.contact import Contact
from fabmon.wire.event import Event, read_event
from tests.make import event_bytes


def event(kind: str, ago_s: float, app: str, run: str | None = None) -> Event:
    now = datetime.now(UTC)
    return read_event(event_bytes(kind, at=now - timedelta(seconds=ago_s), app_name=app, run=run), now=now)


def shown() -> dict[str, dict[tuple[str, ...], float]]:
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in metrics.SITE.collect()
    }


async def test_jobs_are_counted_by_application_and_status(pool: Pool) -> None:
    await write_events(
        pool,
        [
            *(event("started", 2000 + n, "etch") for n in range(3)),
            event("started", 10, "etch"),
            event("started", 5, "new"),
            *(event("finished", 60 + n, "etch") for n in range(4)),
            event("error", 3000, "etch"),
            event("error", 4000, "etch"),  # more than an hour ago
            event("finished", -600, "etch"),  # a clock that is ahead
            event("canceled", 3, "backup"),
        ],
    )
    await write_contacts(
        pool,
        [
            Heard(str(uuid4()), monotonic(), Contact(312, 600.0, host="etch-07")),
            Heard(str(uuid4()), monotonic() - 100, Contact(0, host="etch-08")),
            Heard(str(uuid4()), monotonic(), Contact(0, host="gone", stopped=True)),
        ],
    )
    publish(await read_census(pool, 900))
    found = shown()
    assert found["fabmon_jobs"] == {
        ("etch", "running"): 4,
        ("etch", "succeeded"): 4,
        ("etch", "failed"): 1,
        ("new", "running"): 1,
        ("backup", "canceled"): 1,
    }
    assert found["fabmon_silent_jobs"] == {("etch",): 3, ("new",): 0}
    assert 2000 < found["fabmon_oldest_running_job_age_seconds"][("etch",)] < 2100
    by_host = {name: {key[1]: value for key, value in found[name].items()} for name in found if "sidecar" in name}
    assert by_host["fabmon_sidecar_up"] == {"etch-07": 1, "etch-08": 0}
    assert by_host["fabmon_sidecar_pending_events"] == {"etch-07": 312, "etch-08": 0}
    assert 600 <= by_host["fabmon_sidecar_oldest_pending_age_seconds"]["etch-07"] < 700
    metrics.SITE.clear()
    assert shown() == {}


def test_small_applications_are_counted_together() -> None:
    rows = [{"app_name": f"app-{n}", "status": "failed", "jobs": 1 + (n < MOST_APPS)} for n in range(MOST_APPS + 50)]
    publish(Census([], rows, []))
    jobs = shown()["fabmon_jobs"]
    assert (len(jobs), jobs[(OTHER, "failed")], sum(jobs.values())) == (MOST_APPS + 1, 50, 2 * MOST_APPS + 50)


async def test_a_census_may_take_five_seconds_of_the_database_and_no_more(pool: Pool) -> None:
    async with pool.connection() as connection:
        async with connection.transaction():
            await connection.execute(query("bound_census"))
            row = await (await connection.execute("show statement_timeout")).fetchone()
            assert row == {"statement_timeout": "5s"}
        row = await (await connection.execute("show statement_timeout")).fetchone()
    assert row == {"statement_timeout": "30s"}  # other questions have theirs again
