-- name: read_run_events
-- The events of one run, in the order of their positions, behind a position.
-- in: entity_type text, run uuid, after_at timestamptz or null, after_kind text, after_key uuid, limit int
select
    idempotency_key, at, kind, status, entity_type, entity_id, parent_id, app_id, app_name, app_version, site_id,
    job_key, sub_key, metrics, metadata, stored_at
from event
where entity_id = %(run)s and entity_type = %(entity_type)s
    and (
        %(after_at)s::timestamptz is null
        or (at, event_rank(kind), idempotency_key)
            > (%(after_at)s::timestamptz, event_rank(%(after_kind)s), %(after_key)s::uuid)
    )
order by at, event_rank(kind), idempotency_key
limit %(limit)s;

-- name: read_apps
-- Each application: its versions, runs by status, when it was last heard of, and how long its jobs take.
-- in: since timestamptz
-- Counts are taken without sorting; `offset 0` keeps the durations from being read one by one in the order of an index.
with counted as (
    select app_id, app_version, status, max(app_name) as app_name, max(last_event_at) as last_event_at, count(*) as jobs
    from job
    where started_at >= %(since)s
    group by app_id, app_version, status
),
timed as (
    select app_id, percentile_cont(array[0.5, 0.95]) within group (order by duration_s) as duration
    from (select app_id, duration_s from job where started_at >= %(since)s offset 0) as found
    group by app_id
)
select
    app_id,
    max(app_name) as app_name,
    array_agg(distinct app_version) filter (where app_version is not null) as versions,
    sum(jobs)::bigint as jobs,
    coalesce(sum(jobs) filter (where status = 'running'), 0)::bigint as running,
    coalesce(sum(jobs) filter (where status = 'succeeded'), 0)::bigint as succeeded,
    coalesce(sum(jobs) filter (where status = 'failed'), 0)::bigint as failed,
    coalesce(sum(jobs) filter (where status = 'canceled'), 0)::bigint as canceled,
    max(last_event_at) as last_seen_at,
    duration[1] as duration_p50_s,
    duration[2] as duration_p95_s
from counted
join timed using (app_id)
group by app_id, duration
order by max(last_event_at) desc, app_id;

-- name: read_stats
-- Jobs by the bucket of their start, and by a column when asked.
-- in: begin timestamptz, end timestamptz, bucket interval, by text (status, app, site or null)
select
    date_bin(%(bucket)s::interval, started_at, '2000-01-01T00:00:00Z') as bucket,
    case %(by)s::text when 'status' then status when 'app' then app_name when 'site' then site_id end as by,
    count(*) as count,
    count(*) filter (where status = 'running') as running,
    count(*) filter (where status = 'succeeded') as succeeded,
    count(*) filter (where status = 'failed') as failed,
    count(*) filter (where status = 'canceled') as canceled,
    round(count(*) filter (where status = 'failed')::numeric
        / nullif(count(*) filter (where status <> 'running'), 0), 6)::double precision as failure_ratio,
    percentile_cont(0.5) within group (order by duration_s) as duration_p50_s,
    percentile_cont(0.95) within group (order by duration_s) as duration_p95_s,
    percentile_cont(0.99) within group (order by duration_s) as duration_p99_s,
    coalesce(sum(cpu), 0) as cpu_s,
    percentile_cont(0.5) within group (order by cpu) as cpu_p50_s,
    percentile_cont(0.95) within group (order by cpu) as cpu_p95_s,
    percentile_cont(0.99) within group (order by cpu) as cpu_p99_s,
    max(mem_max_mb) as mem_max_mb,
    percentile_cont(0.5) within group (order by mem_max_mb) as mem_p50_mb,
    percentile_cont(0.95) within group (order by mem_max_mb) as mem_p95_mb,
    percentile_cont(0.99) within group (order by mem_max_mb) as mem_p99_mb
from job
cross join lateral (select coalesce(cpu_user_s + cpu_system_s, cpu_user_s, cpu_system_s) as cpu) as used
where started_at >= %(begin)s and started_at < %(end)s
group by 1, 2
order by 1, 2
limit 10001;

-- name: job_names
-- The application names that contain a text. Each step jumps to the next name in the index: their number counts, not
-- that of the rows.
-- in: pattern text, wanted bool (false: those that do not contain it)  out: app_name text
with recursive names as (
    (select app_name from job order by app_name limit 1)
    union all
    select (select app_name from job where app_name > names.app_name order by app_name limit 1)
    from names
    where names.app_name is not null
)
select app_name from names where (app_name collate "default" ilike %(pattern)s) = %(wanted)s::bool;

-- name: subjob_names
-- The application names that contain a text. Each step jumps to the next name in the index: their number counts, not
-- that of the rows.
-- in: pattern text, wanted bool (false: those that do not contain it)  out: app_name text
with recursive names as (
    (select app_name from subjob order by app_name limit 1)
    union all
    select (select app_name from subjob where app_name > names.app_name order by app_name limit 1)
    from names
    where names.app_name is not null
)
select app_name from names where (app_name collate "default" ilike %(pattern)s) = %(wanted)s::bool;
