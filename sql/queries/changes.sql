-- name: read_changes
-- The next events in the order of their commits, after a position; none that a running transaction could still precede.
-- in: tx text, seq bigint, page int
select
    tx::text as tx, seq, at, entity_type, entity_id, parent_id, app_id, app_name, site_id, kind, status,
    case entity_type when 'subjob' then coalesce(sub_key, job_key) else job_key end as key,
    metrics, metadata, idempotency_key, stored_at
from event
where (tx, seq) > (%(tx)s::xid8, %(seq)s::bigint)
    -- Said once more by itself: compressed chunks are passed over by it, which a comparison of rows does not do.
    and tx >= %(tx)s::xid8
    and tx < pg_snapshot_xmin(pg_current_snapshot())
order by event.tx, event.seq
limit %(page)s;

-- name: read_head
-- The position behind which every event lies that is not yet visible to all.
select pg_snapshot_xmin(pg_current_snapshot())::text as tx;
