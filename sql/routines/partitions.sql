-- Daily partitions of `event` where there is no TimescaleDB.

-- Make the partition of *day* unless it is there; does nothing on a hypertable. Rows of that day that went to
-- event_default before (the partition was missing) stay there: they are found as well, and dropped with their day.
create or replace function make_event_partition(day date) returns void
language plpgsql as $$
declare
    name constant text := 'event_' || to_char(day, 'YYYYMMDD');
begin
    if to_regclass(name) is not null or not exists (
        select from pg_class where oid = 'event'::regclass and relkind = 'p'
    ) then
        return;
    end if;
    execute format(
        'create table %I partition of event for values from (%L) to (%L)',
        name, day::timestamp at time zone 'utc', (day + 1)::timestamp at time zone 'utc'
    );
exception
    when duplicate_table then
        null; -- another process made it meanwhile
    when check_violation then
        raise notice 'event_default holds rows of %: they stay there', day;
end
$$;

-- Drop every partition whose day ended more than *days* ago.
create or replace function drop_event_partitions(days int) returns int
language plpgsql as $$
declare
    name text;
    dropped int := 0;
begin
    for name in
        select relid::regclass::text from pg_partition_tree('event') where isleaf
    loop
        if name ~ '^event_[0-9]{8}$' and to_date(right(name, 8), 'YYYYMMDD') + 1 < current_date - days then
            execute format('drop table %I', name);
            dropped := dropped + 1;
        end if;
    end loop;
    delete from event_default where stored_at < now() - make_interval(days => days);
    return dropped;
end
$$;
