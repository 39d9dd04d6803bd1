"""keys: what it costs to store an idempotency key once, by design (docs/decisions/0007-idempotency-keys.md).

Batches of 1,000 new keys, each batch a transaction, by one connection and by two, over none and over two million stored
(or as many as the argument says), which lie in 20 daily chunks. Every design stores the same event in the same way. The
limit is the event alone, in a hypertable with its two indexes, which takes every repeat. Each design must refuse a batch
that is sent again, a day later.
"""

import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import msgspec
import psycopg

from benchmarks.bench import database, finish, median, result

BATCH, BATCHES, ROUNDS = 1000, 20, 6
STORED = 2_000_000
DAYS = 20

EVENT = """
create table {name} (like event including defaults including identity);
select create_hypertable('{name}', by_range('stored_at', interval '1 day'), create_default_indexes => false);
create index on {name} (tx, seq);
create index on {name} (entity_id, at);
"""
INSERT = """
insert into {name} (
    stored_at, idempotency_key, site_id, entity_type, entity_id, app_id, app_name, kind, at, status, metrics, metadata
)
select
    made.stored_at, key, 'fab1', 'job', key, key, 'recipe-runner', 'progress', now(), 'running',
    '{{"progress":0.5}}', '{{}}'
from
"""
NEW = "unnest(%(keys)s::uuid[]) as key, (select now() - %(age)s::interval) as made (stored_at)"
OLD = """(
    select now() - make_interval(secs => n * %(days)s::int * 86400.0 / %(stored)s::int) as stored_at,
        md5(%(seed)s || n::text)::uuid as key
    from generate_series(%(begin)s::int, %(end)s::int) as n
) as made
"""
KEYS = """
create table {name}_key (key uuid, site_id text collate "C", stored_on date, primary key (key, site_id))
"""
INSERT_KEYS = "insert into {name}_key select key, 'fab1', made.stored_at::date from "
PARTITIONS = "".join(
    f"create table {{name}}_key_{n} partition of {{name}}_key for values with (modulus 16, remainder {n});"
    for n in range(16)
)
# The unique index needs the partition column, so one writer at a time looks into every chunk before.
UNIQUE = "create unique index on {name} (idempotency_key, site_id, stored_at)"
LOCK = "select pg_advisory_xact_lock(hashtext('{name}'))"
UNLESS = """
where not exists (select from {name} as stored where stored.idempotency_key = key and stored.site_id = 'fab1')
"""


class Design(msgspec.Struct):
    """How the tables are made and filled, and the statements of one batch, of which the last inserts its events."""

    make: str
    fill: list[str]
    store: list[str]


BY_TABLE = ([INSERT + OLD, INSERT_KEYS + OLD], [INSERT_KEYS + NEW + " order by key", INSERT + NEW])
DESIGNS = {
    "the event alone": Design(EVENT, [INSERT + OLD], [INSERT + NEW]),
    "key table": Design(EVENT + KEYS, *BY_TABLE),
    "key table, 16 hash partitions": Design(EVENT + KEYS + " partition by hash (key);" + PARTITIONS, *BY_TABLE),
    "key in the event, lock and look": Design(EVENT + UNIQUE, [INSERT + OLD], [LOCK, INSERT + NEW + UNLESS]),
}

Connection = psycopg.Connection[tuple[object, ...]]


def main(stored: int) -> None:
    rates: dict[tuple[str, int, int], list[float]] = {}
    with database() as url, psycopg.connect(url, autocommit=True) as connection:
        tables = {(name, size): f"keys_{place}_{size}" for place, name in enumerate(DESIGNS) for size in (0, stored)}
        for (name, size), table in tables.items():
            prepare(connection, DESIGNS[name], table, size)
        for number in range(ROUNDS):
            for (name, size), table in tables.items():
                for connections in (1, 2):
                    rate = measure(url, DESIGNS[name], table, connections)
                    if number:
                        rates.setdefault((name, size, connections), []).append(rate)
        for (name, _), table in tables.items():
            assert takes_once(connection, DESIGNS[name], table) == (name != "the event alone"), name
    lines = [
        f"{'':34}{'over none':>22}{f'over {stored:,}':>22}",
        f"{'events/s by so many connections':34}" + 2 * f"{1:11}{2:11}",
    ]
    for name in DESIGNS:
        found = [median(rates[name, size, connections]) for size in (0, stored) for connections in (1, 2)]
        lines.append(f"{name:34}" + "".join(f"{rate:11,.0f}" for rate in found))
    settings = (
        f"Medians of {ROUNDS - 1} interleaved rounds of {BATCHES} batches of {BATCH} events after one to warm up; the "
        f"stored events lie in {DAYS} chunks; TimescaleDB on PostgreSQL 17, fsync and synchronous_commit on."
    )
    ours, limit = (median(rates[name, stored, 2]) for name in ("key table", "the event alone"))
    finish([result("keys", ours, limit, "events/s")], settings, "\n".join(lines))


def prepare(connection: Connection, design: Design, table: str, stored: int) -> None:
    connection.execute(design.make.format(name=table).encode())
    step = 50_000
    for begin in range(0, stored, step):
        values = {"stored": stored, "days": DAYS, "seed": table, "begin": begin, "end": begin + step - 1}
        for statement in design.fill:
            connection.execute(statement.format(name=table).encode(), values)
    connection.execute(f"vacuum analyze {table}".encode())


def measure(url: str, design: Design, table: str, connections: int) -> float:
    """New events a second."""
    batches = [[uuid.uuid4() for _ in range(BATCH)] for _ in range(BATCHES)]

    def store(mine: list[list[uuid.UUID]]) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for keys in mine:
                assert write(connection, design, table, keys)

    begun = time.perf_counter()
    with ThreadPoolExecutor(connections) as threads:
        list(threads.map(store, [batches[start::connections] for start in range(connections)]))
    return BATCH * BATCHES / (time.perf_counter() - begun)


def write(connection: Connection, design: Design, table: str, keys: list[uuid.UUID], age: str = "0 s") -> bool:
    """Store a batch, of that age, in a transaction; False when a key is taken."""
    values = {"keys": keys, "age": age}
    try:
        with connection.transaction():
            for statement in design.store:
                cursor = connection.execute(statement.format(name=table).encode(), values, prepare=True)
            return cursor.rowcount == len(keys)
    except psycopg.errors.UniqueViolation:
        return False


def takes_once(connection: Connection, design: Design, table: str) -> bool:
    """Whether a batch that comes again is refused a day later."""
    keys = [uuid.uuid4() for _ in range(10)]
    assert write(connection, design, table, keys, "1 day")
    return not write(connection, design, table, keys)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STORED)
