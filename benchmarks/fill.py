"""Fill a database with seeded jobs and their events, as `local` would have written them.

A million jobs take about half a minute, and so do a million events.
"""

import psycopg

FILL = """
insert into run (
    site_id, entity_type, id, last_pos, app_id, app_name, app_version, app_version_pos, job_key, job_key_pos,
    metrics, metrics_pos, metadata, metadata_pos, end_pos, end_status, ended_at, end_duration_s,
    began_at, first_event_at, last_event_at, mem_max_mb, event_count, error_count, inserted_at, updated_at
)
select
    'fab1', 'job', md5('job' || n)::uuid, lpad(n::text, 51, '0'),
    md5('app' || n %% 40)::uuid, 'application-' || n %% 40, '1.' || n %% 5, lpad(n::text, 51, '0'),
    'LOT-' || n / 10, lpad(n::text, 51, '0'),
    jsonb_build_object('cpu_user_s', n %% 1000 / 10.0, 'cpu_system_s', n %% 70 / 10.0, 'temperature_c', 20 + n %% 60), '{}',
    jsonb_build_object('tool', 'TOOL-' || n %% 300, 'recipe', 'R-' || n %% 5000, 'wafers', n %% 25), '{}',
    case when n %% 500 > 0 then lpad(n::text, 51, '0') end,
    case when n %% 500 = 0 then null when n %% 40 = 7 then 'failed' when n %% 97 = 5 then 'canceled' else 'succeeded' end,
    case when n %% 500 > 0 then at + make_interval(secs => n %% 300) end, n %% 300,
    at, at, at + make_interval(secs => n %% 300), 100 + n %% 4000, 4, 0, at, at + make_interval(secs => n %% 300)
from (
    select n, timestamptz '2026-01-01T00:00:00Z' + n * interval '20 seconds' as at from generate_series(%s, %s) as n
) as made
"""


INDEXES = """
select quote_ident(indexname), replace(indexdef, ' ON ONLY ', ' ON ')
from pg_indexes where tablename = 'run' and indexname <> 'run_pkey'
"""


def fill(url: str, jobs: int, step: int = 100_000) -> None:
    """*jobs* jobs of 40 applications, 300 tools, 5,000 recipes; one in 40 failed, one in 500 still runs.

    The indexes are made anew behind the rows: keeping them up to date row by row takes three times as long.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        indexes = connection.execute(INDEXES).fetchall()
        for name, _ in indexes:
            connection.execute(f"drop index {name}".encode())
        for begin in range(0, jobs, step):
            connection.execute(FILL, [begin, min(begin + step, jobs) - 1])
        connection.execute("set maintenance_work_mem = '1GB'")
        for _, definition in indexes:
            connection.execute(definition.encode())
        connection.execute("vacuum analyze run")


# Four events of each job, stored over the last days, with their keys.
EVENTS = """
with made as materialized (
    select
        now() - make_interval(secs => (%(jobs)s::int - n) * %(days)s::int * 86400.0 / %(jobs)s::int) as stored_at,
        md5(n || 'key' || place)::uuid as idempotency_key, md5('job' || n)::uuid as entity_id, n, place,
        timestamptz '2026-01-01T00:00:00Z' + n * interval '20 seconds' + place * interval '5 seconds' as at
    from generate_series(%(begin)s::int, %(end)s::int) as n, generate_series(0, 3) as place
), keys as (
    insert into event_key (idempotency_key, site_id, stored_on)
    select idempotency_key, 'fab1', stored_at::date from made
)
insert into event (
    stored_at, idempotency_key, site_id, entity_type, entity_id, app_id, app_name, app_version, job_key, kind, at,
    status, metrics, metadata
)
select
    stored_at, idempotency_key, 'fab1', 'job', entity_id, md5('app' || n %% 40)::uuid, 'application-' || n %% 40,
    '1.' || n %% 5, 'LOT-' || n / 10, (array['started', 'progress', 'metric', 'finished'])[place + 1], at,
    case when place = 3 then 'succeeded' else 'running' end,
    case place when 0 then '{}' when 1 then jsonb_build_object('progress', n %% 100 / 100.0)
        else jsonb_build_object('cpu_user_s', n %% 1000 / 10.0) end,
    case place when 0 then jsonb_build_object('tool', 'TOOL-' || n %% 300) else '{}' end
from made
"""


def fill_events(url: str, events: int, days: int = 20, step: int = 25_000) -> None:
    """*events* events of a quarter as many jobs, stored over the last *days*, with their keys and jobs."""
    jobs = events // 4
    fill(url, jobs)
    with psycopg.connect(url, autocommit=True) as connection:
        for begin in range(0, jobs, step):
            values = {"jobs": jobs, "days": days, "begin": begin, "end": min(begin + step, jobs) - 1}
            connection.execute(EVENTS, values)
        connection.execute("vacuum analyze event")
        connection.execute("vacuum analyze event_key")
        connection.execute("checkpoint")
