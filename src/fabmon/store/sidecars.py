"""The sidecars of the site: when each was heard, what it holds back, and what that means for the answers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import psycopg

from fabmon.clock import monotonic
from fabmon.errors import StoreUnavailable
from fabmon.store.named import query
from fabmon.store.pool import Pool, translated
from fabmon.wire.codec import encode
from fabmon.wire.contact import Contact


class Heard(msgspec.Struct, frozen=True):
    """A sidecar's word, and the monotonic time at which it was composed."""

    id: str
    at: float
    contact: Contact


async def write_contacts(pool: Pool, heard: Sequence[Heard]) -> None:
    """Keep the newest word of each; raises StoreUnavailable."""
    now = monotonic()
    rows = [
        {"id": each.id, "seconds_ago": max(0.0, now - each.at), **msgspec.structs.asdict(each.contact)}
        for each in sorted(heard, key=lambda each: each.id)
    ]
    async with translated(f"write {len(rows)} contacts"), pool.connection() as connection:
        try:
            await connection.execute(query("write_contacts"), {"contacts": encode(rows).decode()})
        except (psycopg.DataError, psycopg.ProgrammingError) as error:
            # A right that is missing, say; events are taken all the same, so it is no reason to stop the role.
            raise StoreUnavailable(f"write contacts: {error}") from error


async def read_sidecars(pool: Pool) -> list[dict[str, Any]]:
    """Every sidecar that ever was heard, by id; raises StoreUnavailable."""
    async with translated("read the sidecars"), pool.connection() as connection:
        return await (await connection.execute(query("read_sidecars"))).fetchall()


async def complete_until(pool: Pool) -> datetime | None:
    """The time up to which no known sidecar holds back an older event; None when no sidecar is known.

    By the time at which events were accepted. Ask before the list is read: what it lacks is not older than this. Raises
    StoreUnavailable.
    """
    async with translated("read the sidecars"), pool.connection() as connection:
        row = await (await connection.execute(query("complete_until"))).fetchone()
    found: datetime | None = row["complete_until"] if row else None
    return found
