"""The change feed: every event once, in the order of commits, whatever the writers do."""

import asyncio

from fabmon.store.changes import Change, Position, read_changes, read_head, read_position
from fabmon.store.events import write_events
from fabmon.store.pool import Pool
from tests.make import event

START = Position(0, 0)


async def read_all(pool: Pool, after: Position, page: int = 7) -> list[Change]:
    found: list[Change] = []
    while changes := await read_changes(pool, after, page):
        found += changes
        after = changes[-1].position
    return found


def keys(changes: list[Change]) -> list[str]:
    return [str(change.event["idempotency_key"]) for change in changes]


async def test_a_transaction_that_stays_open_holds_back_what_comes_after_it_and_loses_nothing(pool: Pool) -> None:
    before, after = event(), [event() for _ in range(5)]
    await write_events(pool, [before])
    async with pool.connection() as slow:
        # A writer that has taken its place in the order, and does not commit.
        transaction = slow.transaction()
        await transaction.__aenter__()
        await slow.execute(
            "insert into event (idempotency_key, site_id, entity_type, entity_id, app_id, app_name, kind, at, status,"
            " metrics, metadata) values (gen_random_uuid(), 'fab1', 'job', gen_random_uuid(), gen_random_uuid(), 'slow',"
            " 'started', now(), 'running', '{}', '{}')"
        )
        for each in after:
            await write_events(pool, [each])
        early = await read_all(pool, START)
        assert keys(early) == [str(before.idempotency_key)]
        await transaction.__aexit__(None, None, None)
    late = await read_all(pool, early[-1].position)
    assert late[0].event["app_name"] == "slow"
    assert keys(late)[1:] == [str(each.idempotency_key) for each in after]


async def test_a_reader_beside_many_writers_sees_every_event_once(pool: Pool) -> None:
    batches = [[event() for _ in range(5)] for _ in range(40)]
    seen: list[Change] = []
    done = asyncio.Event()

    async def follow() -> None:
        position = START
        while True:
            last_round = done.is_set()
            changes = await read_all(pool, position)
            seen.extend(changes)
            position = changes[-1].position if changes else position
            if last_round:
                return

    async def write(mine: list[list[object]]) -> None:
        for batch in mine:
            await write_events(pool, batch)  # type: ignore[arg-type]

    follower = asyncio.ensure_future(follow())
    await asyncio.gather(*(write(batches[n::4]) for n in range(4)))  # type: ignore[arg-type]
    done.set()
    await follower
    assert sorted(keys(seen)) == sorted(str(each.idempotency_key) for batch in batches for each in batch)
    assert [change.position for change in seen] == sorted(change.position for change in seen)


async def test_the_head_is_before_what_comes_and_behind_what_was(pool: Pool) -> None:
    await write_events(pool, [event()])
    head = await read_head(pool)
    later = event()
    await write_events(pool, [later])
    assert keys(await read_all(pool, head)) == [str(later.idempotency_key)]


def test_an_id_is_read_as_it_was_written_and_nothing_else_is() -> None:
    assert read_position(str(Position(765, 12))) == Position(765, 12)
    for text in ("", "1", "1-", "-1-2", "1-2-3", "a-b", "1-2\n", "99999999999999999999-1", "1-9999999999999999999"):
        assert read_position(text) is None, text
