"""The Local API of a site: stores events, keeps the jobs that they mean, answers questions, streams live.

accept -> group commit -> store -> change feed -> hub -> stream
             \\ database away: spool -> replay -> store
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fabmon import metrics
from fabmon.clock import monotonic
from fabmon.errors import BadEvent, SchemaMismatch, StoreUnavailable
from fabmon.httpd.access import open_access
from fabmon.httpd.app import build_app
from fabmon.httpd.bound import within_sites
from fabmon.httpd.health import health_routes
from fabmon.httpd.openapi import openapi_route
from fabmon.httpd.role import Role
from fabmon.ingest.accept import ingest_routes
from fabmon.ingest.commit import Bounds, Group, Outcome, group_commit
from fabmon.ingest.contact import Contacts, contact_routes, hearing, keep_contacts
from fabmon.ingest.openlineage import openlineage_routes
from fabmon.ingest.ping import ping_routes
from fabmon.logs import Log
from fabmon.peer.client import Sent
from fabmon.query.census import take_census
from fabmon.query.complete import Completeness
from fabmon.query.figures import figure_routes
from fabmon.query.jobs import job_routes
from fabmon.query.sidecars import sidecar_routes
from fabmon.relay.forward import Underway, forward
from fabmon.relay.probe import Deliver
from fabmon.relay.replay import replay
from fabmon.relay.report import refresh_metrics, spool_health, upstream_health
from fabmon.relay.upstream import Upstream
from fabmon.roles.described import LOCAL
from fabmon.settings import LocalSettings
from fabmon.spool.limits import limits_of
from fabmon.spool.spool import open_spool
from fabmon.store.embedded import open_embedded
from fabmon.store.events import write_events
from fabmon.store.migrate import migrate
from fabmon.store.pool import open_pool
from fabmon.store.schema import Schema, open_schema
from fabmon.store.upkeep import Periods, upkeep
from fabmon.stream.follow import follow
from fabmon.stream.hub import Hub
from fabmon.stream.sse import stream_routes
from fabmon.stream.wakeups import Commits, wake_one_another
from fabmon.version import __version__
from fabmon.wire.event import BATCH_LIMIT_BYTES, Batch, Event, Rejection, Sink, reread_event

log = Log("fabmon.local")

# Three transactions under way keep both the database and this process busy (docs/decisions/0003-write-path.md).
_IN_FLIGHT = 3
# Fewer events than this share one that is under way already: single events of many callers, at half the cost.
_GROUP_EVENTS_LEAST = 500
# How long a request waits for its transaction before its events go into the spool.
_COMMIT_TIMEOUT_SECONDS = 10.0


@asynccontextmanager
async def open_local(settings: LocalSettings) -> AsyncIterator[Role]:
    access = open_access(settings.tokens_file, settings.site_id or None)
    async with (
        open_spool(settings.spool_path, limits_of(settings)) as spool,
        _database(settings) as url,
        open_pool(url, settings.pool_max_size) as pool,
        open_schema(pool) as schema,
    ):
        site_id = settings.site_id or None
        upstream = Upstream("database")
        await _wait_for_database(schema, settings.database_wait_s, upstream)
        hub = Hub(settings.stream_max_readers)
        commits = Commits()
        contacts = Contacts()

        async def write(group: Group) -> Outcome:
            await schema.must_match()
            with metrics.COMMIT_SECONDS.time():
                duplicates = await write_events(pool, group.events)
            commits.here()
            return Outcome(duplicates)

        async def health() -> dict[str, Any]:
            database = await schema.health()
            return {
                "status": "ok" if database["status"] == "ok" and not spool.pending else "degraded",
                "service": "local-api",
                "version": __version__,
                "site_id": site_id,
                "database": database,
                **await spool_health(spool),
                "upstream": upstream_health(upstream),
            }

        async def database_ready() -> str | None:
            database = await schema.health()
            return None if database["status"] == "ok" else f"serving from the spool: {database['error']}"

        def refresh() -> None:
            refresh_metrics(spool, upstream)

        bounds = Bounds(
            group_events=settings.commit_max_events,
            group_events_least=_GROUP_EVENTS_LEAST,
            group_bytes=2 * BATCH_LIMIT_BYTES,
            waiting_events=settings.commit_max_waiting,
            waiting_bytes=4 * BATCH_LIMIT_BYTES,
            waiting_requests=settings.commit_max_waiting,
        )
        async with (
            group_commit(write, bounds, in_flight=_IN_FLIGHT, name="commit") as stored,
            replay(spool, _deliver(stored, schema), upstream, settings.drain_share),
            keep_contacts(pool, schema, contacts, spool, site_id),
            wake_one_another(url, pool, hub.wanted, commits),
            follow(pool, schema, hub, commits.wake),
            upkeep(pool, schema, _periods(settings)),
            take_census(pool, schema, settings.stale_after_s),
        ):
            forwarded = forward(stored, spool, upstream, _COMMIT_TIMEOUT_SECONDS, Underway(), spool_when_busy=False)
            sink = within_sites(forwarded)
            complete = Completeness(pool)
            routes = [
                *hearing(
                    contacts,
                    [
                        *ingest_routes(sink, "local", site_id),
                        *ping_routes(sink, site_id),
                        *openlineage_routes(sink, "local", site_id),
                    ],
                    site_id,
                ),
                *contact_routes(contacts, site_id),
                *sidecar_routes(pool),
                *job_routes(pool, complete, settings.stale_after_s),
                *figure_routes(pool, complete),
                *stream_routes(pool, hub),
                *health_routes(health, {"database": database_ready}, refresh, metrics.SPOOLED, metrics.STORED),
            ]
            yield Role(build_app([*routes, openapi_route(routes, LOCAL, "fabmon local")], access), hub.close)


@asynccontextmanager
async def _database(settings: LocalSettings) -> AsyncIterator[str]:
    """The database's URL; the embedded one is ours, so its schema is brought up to date here."""
    if settings.database_url:
        yield settings.database_url
        return
    async with open_embedded(settings.data_path / "postgres") as url:
        done = await migrate(url)
        if done:
            log.info("schema.migrated", steps=",".join(done))
        yield url


async def _wait_for_database(schema: Schema, wait_seconds: float, upstream: Upstream) -> None:
    """Wait a bounded time; a wrong schema ends the start, a silent database does not."""
    deadline = monotonic() + wait_seconds
    while True:
        try:
            await schema.check()
            return
        except SchemaMismatch:
            raise
        except StoreUnavailable as error:
            if monotonic() > deadline:
                upstream.failed(error)
                return
        await asyncio.sleep(0.2)


def _periods(settings: LocalSettings) -> Periods:
    return Periods(
        keep_events=settings.event_retention_days,
        keep_jobs=settings.job_retention_days,
        compress_events_after=settings.compress_after_days,
    )


def _deliver(sink: Sink, schema: Schema) -> Deliver:
    """Replay's way into the store: events of the spool, by the same group commit as fresh ones."""

    async def deliver(raws: Sequence[bytes], patience_seconds: float) -> Sent:
        # Its patience is the database's: a statement there has its own time limit.
        if not raws:
            await schema.must_answer()
        events: list[Event] = []
        places: list[int] = []
        rejected: list[Rejection] = []
        for place, raw in enumerate(raws):
            try:
                events.append(reread_event(raw))
                places.append(place)
            except BadEvent as error:
                rejected.append(Rejection(place, error.code, str(error)))
        if events:
            receipt = await sink(Batch(events, [raws[place] for place in places]))
            rejected += [Rejection(places[why.index], why.code, why.detail) for why in receipt.rejected]
        return Sent(rejected)

    return deliver
