-- Index paths for the filters of a job list; measured in docs/decisions/0004-query-indexes.md.
-- Text compares by its bytes, as in answers that several sites merge.
alter table run alter column app_name type text collate "C";

create index run_app_name on run (app_name, started_at, id);
create index run_app_id on run (app_id, started_at, id);
create index run_metadata on run using gin (metadata jsonb_path_ops);
create index subjob_sub_key on subjob (sub_key, started_at);

drop index run_status;
create index run_status on run (status, started_at, id);
create index run_duration on run (duration_s, id);
