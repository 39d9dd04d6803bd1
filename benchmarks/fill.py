"""Fill `run` with seeded jobs, as the fold would have written them; a million takes about a minute."""

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


def fill(url: str, jobs: int, step: int = 100_000) -> None:
    """*jobs* jobs of 40 applications, 300 tools, 5,000 recipes; one in 40 failed, one in 500 still runs."""
    with psycopg.connect(url, autocommit=True) as connection:
        for begin in range(0, jobs, step):
            connection.execute(FILL, [begin, min(begin + step, jobs) - 1])
        connection.execute("vacuum analyze run")
