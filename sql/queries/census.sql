-- name: bound_census
-- For the rest of the transaction: figures for /metrics are not worth more of the database than this.
set local statement_timeout = '5s';

-- name: running_jobs
-- Applications with running jobs: how many, how many of them silent, and the age of the oldest. Of the oldest jobs only.
-- in: stale_after_s float8, jobs int
select
    app_name,
    count(*) as running,
    count(*) filter (where last_event_at < now() - make_interval(secs => %(stale_after_s)s::float8)) as silent,
    greatest(extract(epoch from now() - min(started_at)), 0)::float8 as oldest_age_s
from (
    select app_name, started_at, last_event_at from job where status = 'running' order by started_at limit %(jobs)s
) as oldest
group by app_name;

-- name: ended_jobs
-- Jobs that ended within the last hour by application and status. Of the newest jobs only.
-- in: jobs int
select app_name, status, count(*) as jobs
from (
    select app_name, status from job
    where ended_at > now() - interval '1 hour' and ended_at <= now()
    order by ended_at desc limit %(jobs)s
) as newest
group by app_name, status;
