-- name: lock_upkeep
-- One process at a time; the lock goes with the session, should it die.
select pg_try_advisory_lock(hashtext('fabmon.upkeep')) as locked;

-- name: unlock_upkeep
select pg_advisory_unlock(hashtext('fabmon.upkeep'));

-- name: read_storage
-- How `event` is kept. The licence is null where TimescaleDB is not in the database.  out: hypertable bool, license text
select relkind <> 'p' as hypertable, current_setting('timescaledb.license', true) as license
from pg_class where oid = 'event'::regclass;

-- name: drop_chunks
-- in: days int
select drop_chunks('event', older_than => now() - make_interval(days => %(days)s));

-- name: make_partitions
-- Today's partition and those of the next seven days, by the database's clock.
select make_event_partition((current_date + ahead)::date) from generate_series(0, 7) as ahead;

-- name: drop_partitions
-- in: days int
select drop_event_partitions(%(days)s::int);

-- name: remove_keys
-- Keys outlive their events by up to a day, never the other way round.
-- in: days int, rows int
delete from event_key
where ctid = any(array(
    select ctid from event_key where stored_on < current_date - %(days)s::int - 1 limit %(rows)s::int
));

-- name: remove_jobs
-- in: days int, rows int
delete from job
where ctid = any(array(
    select ctid from job where started_at < now() - make_interval(days => %(days)s::int)
        and last_event_at < now() - make_interval(days => %(days)s::int)
        and updated_at < now() - make_interval(days => %(days)s::int)
    limit %(rows)s::int
));

-- name: remove_subjobs
-- in: days int, rows int
delete from subjob
where ctid = any(array(
    select ctid from subjob where started_at < now() - make_interval(days => %(days)s::int)
        and last_event_at < now() - make_interval(days => %(days)s::int)
        and updated_at < now() - make_interval(days => %(days)s::int)
    limit %(rows)s::int
));
