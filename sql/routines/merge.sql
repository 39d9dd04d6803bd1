-- Merge what a batch says of its runs into their rows.

-- The value at the highest position wins.

create or replace function is_later(new_pos text, old_pos text) returns boolean
language sql immutable parallel safe
return new_pos is not null and (old_pos is null or new_pos collate "C" > old_pos collate "C");

-- The entries of *new* whose position is higher than the one that *old_pos* has for the same name.
-- In plpgsql, which keeps its plan: a function in SQL would be planned at each call, which costs more than the merge.
create or replace function later_entries(new jsonb, new_pos jsonb, old_pos jsonb) returns jsonb
language plpgsql immutable parallel safe as $$
begin
    if new = '{}' or old_pos = '{}' then
        return new;
    end if;
    return (
        select coalesce(jsonb_object_agg(name, value), '{}')
        from jsonb_each(new) as entry (name, value)
        where is_later(new_pos ->> name, old_pos ->> name)
    );
end
$$;

-- Merge states of runs into their rows; each field as fabmon.wire.fold.RunState says.
-- states: an array of RunState without its defaults, at most one per run.
-- Rows are taken in the order of their key, so that two writers that meet wait for one another and never deadlock.
create or replace function merge_runs(states json) returns void
language plpgsql as $$
begin
    insert into run as old (
        site_id, entity_type, id,
        last_pos, app_id, app_name, parent_id,
        app_version, app_version_pos, job_key, job_key_pos, sub_key, sub_key_pos,
        metrics, metrics_pos, metadata, metadata_pos,
        end_pos, end_status, ended_at, end_duration_s,
        began_at, first_event_at, last_event_at, mem_max_mb, event_count, error_count
    )
    select
        site_id, entity_type, id,
        last_pos, app_id, app_name, parent_id,
        app_version, app_version_pos, job_key, job_key_pos, sub_key, sub_key_pos,
        coalesce(metrics, '{}'), coalesce(metrics_pos, '{}'), coalesce(metadata, '{}'), coalesce(metadata_pos, '{}'),
        end_pos, end_status, ended_at, end_duration_s,
        began_at, first_event_at, last_event_at, mem_max_mb, event_count, coalesce(error_count, 0)
    from json_to_recordset(states) as state (
        site_id text, entity_type text, id uuid,
        last_pos text, app_id uuid, app_name text, parent_id uuid,
        app_version text, app_version_pos text, job_key text, job_key_pos text, sub_key text, sub_key_pos text,
        metrics jsonb, metrics_pos jsonb, metadata jsonb, metadata_pos jsonb,
        end_pos text, end_status text, ended_at timestamptz, end_duration_s double precision,
        began_at timestamptz, first_event_at timestamptz, last_event_at timestamptz, mem_max_mb double precision,
        event_count bigint, error_count bigint
    )
    order by id, entity_type, site_id collate "C"
    on conflict (id, entity_type, site_id) do update set
        last_pos = greatest(old.last_pos, excluded.last_pos),
        app_id = case when excluded.last_pos > old.last_pos then excluded.app_id else old.app_id end,
        app_name = case when excluded.last_pos > old.last_pos then excluded.app_name else old.app_name end,
        parent_id = case when excluded.last_pos > old.last_pos then excluded.parent_id else old.parent_id end,

        app_version_pos = greatest(old.app_version_pos, excluded.app_version_pos),
        app_version = case when is_later(excluded.app_version_pos, old.app_version_pos)
            then excluded.app_version else old.app_version end,
        job_key_pos = greatest(old.job_key_pos, excluded.job_key_pos),
        job_key = case when is_later(excluded.job_key_pos, old.job_key_pos) then excluded.job_key else old.job_key end,
        sub_key_pos = greatest(old.sub_key_pos, excluded.sub_key_pos),
        sub_key = case when is_later(excluded.sub_key_pos, old.sub_key_pos) then excluded.sub_key else old.sub_key end,

        metrics = old.metrics || later_entries(excluded.metrics, excluded.metrics_pos, old.metrics_pos),
        metrics_pos = old.metrics_pos || later_entries(excluded.metrics_pos, excluded.metrics_pos, old.metrics_pos),
        metadata = old.metadata || later_entries(excluded.metadata, excluded.metadata_pos, old.metadata_pos),
        metadata_pos = old.metadata_pos || later_entries(excluded.metadata_pos, excluded.metadata_pos, old.metadata_pos),

        end_pos = greatest(old.end_pos, excluded.end_pos),
        end_status = case when is_later(excluded.end_pos, old.end_pos) then excluded.end_status else old.end_status end,
        ended_at = case when is_later(excluded.end_pos, old.end_pos) then excluded.ended_at else old.ended_at end,
        end_duration_s = case when is_later(excluded.end_pos, old.end_pos)
            then excluded.end_duration_s else old.end_duration_s end,

        began_at = least(old.began_at, excluded.began_at),
        first_event_at = least(old.first_event_at, excluded.first_event_at),
        last_event_at = greatest(old.last_event_at, excluded.last_event_at),
        mem_max_mb = greatest(old.mem_max_mb, excluded.mem_max_mb),
        event_count = old.event_count + excluded.event_count,
        error_count = old.error_count + excluded.error_count,
        inserted_at = least(old.inserted_at, excluded.inserted_at),
        updated_at = greatest(old.updated_at, excluded.updated_at);
end
$$;
