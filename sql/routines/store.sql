-- Store a batch by one statement; for a small one the round trips saved are worth more than what rows in JSON cost.
-- Returns the places (from 0) of the keys that were taken before. If there are any it has stored nothing, because *states*
-- is the fold of all of *events*: the caller leaves them out and calls again.
create or replace function store_batch(keys uuid[], sites text[], events json, states json) returns int[]
language plpgsql as $$
declare
    repeated constant int[] := take_keys(keys, sites);
begin
    if repeated <> '{}' then
        delete from event_key as stored
        using unnest(keys, sites) as incoming (idempotency_key, site_id)
        where stored.idempotency_key = incoming.idempotency_key
            and stored.site_id = incoming.site_id collate "C"
            and stored.xmin = pg_current_xact_id()::xid;
        return repeated;
    end if;
    insert into event (
        idempotency_key, site_id, entity_type, entity_id, parent_id, app_id, app_name, app_version, job_key, sub_key,
        kind, at, status, metrics, metadata
    )
    select
        idempotency_key, site_id, entity_type, entity_id, parent_id, app_id, app_name, app_version, job_key, sub_key,
        kind, at, status, metrics, metadata
    from json_to_recordset(events) as event (
        idempotency_key uuid, site_id text, entity_type text, entity_id uuid, parent_id uuid, app_id uuid,
        app_name text, app_version text, job_key text, sub_key text, kind text, at timestamptz, status text,
        metrics jsonb, metadata jsonb
    );
    perform merge_runs(states);
    return '{}';
end
$$;
