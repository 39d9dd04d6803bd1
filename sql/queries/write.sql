-- name: take_keys
-- Take the keys of a batch; see routines/keys.sql.
-- in: keys uuid[], sites text[]  out: repeated int[]
select take_keys(%(keys)s::uuid[], %(sites)s::text[]) as repeated;

-- name: copy_events
-- The rows of a batch, as text; stored_at, tx and seq are given by the database.
copy event (
    idempotency_key, site_id, entity_type, entity_id, parent_id, app_id, app_name, app_version, job_key, sub_key,
    kind, at, status, metrics, metadata
) from stdin;

-- name: merge_runs
-- Merge states of runs into their rows; see routines/merge.sql.
-- in: states json, an array of RunState
select merge_runs(%(states)s::json);

-- name: store_batch
-- All of that by one statement, for a small batch; see routines/store.sql.
-- in: keys uuid[], sites text[], events json, states json  out: repeated int[]
select store_batch(%(keys)s::uuid[], %(sites)s::text[], %(events)s::json, %(states)s::json) as repeated;
