-- Take the idempotency keys of a batch: all of them, or none.
-- Returns the places (from 0) of the keys that are stored already; when there are any, nothing was taken. Two writers
-- that race for one key: the second waits, and gets a unique violation when the first commits.
create or replace function take_keys(keys uuid[], sites text[]) returns int[]
language plpgsql as $$
declare
    repeated int[];
begin
    select coalesce(array_agg(place - 1), '{}') into repeated
    from unnest(keys, sites) with ordinality as incoming (idempotency_key, site_id, place)
    where exists (
        select from event_key as stored
        where stored.idempotency_key = incoming.idempotency_key and stored.site_id = incoming.site_id collate "C"
    );
    if repeated <> '{}' then
        return repeated;
    end if;
    insert into event_key (idempotency_key, site_id)
    select idempotency_key, site_id
    from unnest(keys, sites) as incoming (idempotency_key, site_id)
    order by idempotency_key, site_id collate "C";
    return repeated;
end
$$;
