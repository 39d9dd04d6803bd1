-- Take the idempotency keys of a batch; returns the places (from 0) of those that were taken before.
-- Two writers that meet at a key: the second waits for the first to commit, then the key counts as taken; when the first
-- rolls back, the second takes it. Keys are inserted in order, so that two writers never wait for one another.
create or replace function take_keys(keys uuid[], sites text[]) returns int[]
language plpgsql as $$
declare
    taken bigint;
begin
    -- Nearly always all are new. Without ON CONFLICT each is looked for once, not twice.
    begin
        insert into event_key (idempotency_key, site_id)
        select idempotency_key, site_id
        from unnest(keys, sites) as incoming (idempotency_key, site_id)
        order by idempotency_key, site_id collate "C";
        return '{}';
    exception
        when unique_violation then
            -- Undone; which ones is found out below. It is in the WAL, and so the commit waits for a synchronous standby
            -- also where nothing is new: a repeat is not answered before the standby has the first.
            null;
    end;
    insert into event_key (idempotency_key, site_id)
    select idempotency_key, site_id
    from unnest(keys, sites) as incoming (idempotency_key, site_id)
    order by idempotency_key, site_id collate "C"
    on conflict do nothing;
    get diagnostics taken = row_count;
    if taken = cardinality(keys) then
        return '{}';
    end if;
    -- Ours are those that this transaction has inserted.
    return array(
        select place - 1
        from unnest(keys, sites) with ordinality as incoming (idempotency_key, site_id, place)
        where not exists (
            select from event_key as stored
            where stored.idempotency_key = incoming.idempotency_key
                and stored.site_id = incoming.site_id collate "C"
                and stored.xmin = pg_current_xact_id()::xid
        )
    );
end
$$;
