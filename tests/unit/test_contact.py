"""What sidecars tell of themselves while the database is away: bounded, whoever invents them."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from fabmon.clock import monotonic
from fabmon.errors import Overloaded
from fabmon.ingest.contact import Contacts, keep_contacts
from fabmon.spool.spool import open_spool
from fabmon.store.pool import open_pool
from fabmon.store.schema import open_schema
from fabmon.wire.contact import Contact
from tests.fixtures.roles import free_port


def fill(contacts: Contacts) -> None:
    with pytest.raises(Overloaded):
        for _ in range(10_001):
            contacts.heard(str(uuid4()), monotonic(), Contact(pending=1))


async def test_a_local_that_holds_events_outlives_invented_sidecars(tmp_path: Path) -> None:
    contacts = Contacts()
    async with (
        open_spool(tmp_path, 1 << 20) as spool,
        open_pool(f"postgresql://nobody@127.0.0.1:{free_port()}/none", 1) as pool,
        open_schema(pool) as schema,
        keep_contacts(pool, schema, contacts, spool, "fab1"),
    ):
        await spool.append([b'{"n":1}'])
        fill(contacts)
        await asyncio.sleep(1.2)


def test_what_could_not_be_written_waits_up_to_the_bound_and_behind_newer_words() -> None:
    contacts, id = Contacts(), str(uuid4())
    contacts.heard(id, 1.0, Contact(pending=1))
    taken = contacts.take()
    contacts.heard(id, 2.0, Contact(pending=2))
    contacts.give_back(taken)
    assert [(word.id, word.at) for word in contacts.take()] == [(id, 2.0)]
    fill(contacts)
    taken = contacts.take()
    fill(contacts)
    contacts.give_back(taken)
    assert len(contacts.take()) == 10_000
