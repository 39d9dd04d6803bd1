-- The tables. `event` keeps what was reported, in the order of arrival; `run` keeps what it means, one row per job and
-- subjob (partitions `job` and `subjob`). Why arrival time partitions `event`: docs/decisions/0002-schema.md.

create table event_key (
    idempotency_key uuid not null,
    site_id text collate "C" not null,
    stored_on date not null default current_date,
    primary key (idempotency_key, site_id)
);
comment on table event_key is 'Every idempotency key that is stored, once per site, as long as its event is kept';
-- Old keys are found by day; rows arrive in that order, so a few bytes per block are index enough.
create index event_key_stored_on on event_key using brin (stored_on) with (autosummarize = on);

do $$
declare
    columns constant text := $columns$
        stored_at timestamptz not null default now(),
        tx xid8 not null default pg_current_xact_id(),
        seq bigint not null generated always as identity (cache 100),
        idempotency_key uuid not null,
        site_id text collate "C" not null,
        entity_type text collate "C" not null,
        entity_id uuid not null,
        parent_id uuid,
        app_id uuid not null,
        app_name text not null,
        app_version text,
        job_key text,
        sub_key text,
        kind text collate "C" not null,
        at timestamptz not null,
        status text collate "C" not null,
        metrics jsonb not null,
        metadata jsonb not null
    $columns$;
begin
    if exists (select from pg_extension where extname = 'timescaledb') then
        execute format('create table event (%s)', columns);
        perform create_hypertable('event', by_range('stored_at', interval '1 day'), create_default_indexes => false);
        return;
    end if;
    execute format('create table event (%s) partition by range (stored_at)', columns);
    -- Takes what comes on a day whose partition upkeep could not make; nothing is refused for want of one.
    create table event_default partition of event default;
end
$$;
create index event_feed on event (tx, seq);
create index event_entity on event (entity_id, at);

create table run (
    site_id text collate "C" not null,
    entity_type text collate "C" not null,
    id uuid not null,
    -- of the last event
    last_pos text collate "C" not null,
    app_id uuid not null,
    app_name text not null,
    parent_id uuid,
    -- of the last event that carries it
    app_version text,
    app_version_pos text collate "C",
    job_key text collate "C",
    job_key_pos text collate "C",
    sub_key text collate "C",
    sub_key_pos text collate "C",
    metrics jsonb not null,
    metrics_pos jsonb not null,
    metadata jsonb not null,
    metadata_pos jsonb not null,
    -- of the last event that ends the run
    end_pos text collate "C",
    end_status text collate "C",
    ended_at timestamptz,
    end_duration_s double precision,
    -- earliest, latest, maximum, counts
    began_at timestamptz,
    first_event_at timestamptz not null,
    last_event_at timestamptz not null,
    mem_max_mb double precision,
    event_count bigint not null,
    error_count bigint not null,
    inserted_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    -- what people ask for
    status text collate "C" not null generated always as (coalesce(end_status, 'running')) stored,
    started_at timestamptz not null generated always as (coalesce(began_at, first_event_at)) stored,
    duration_s double precision generated always as (
        coalesce(end_duration_s, extract(epoch from ended_at - coalesce(began_at, first_event_at))::double precision)
    ) stored,
    cpu_user_s double precision generated always as ((metrics ->> 'cpu_user_s')::double precision) stored,
    cpu_system_s double precision generated always as ((metrics ->> 'cpu_system_s')::double precision) stored,
    progress double precision generated always as ((metrics ->> 'progress')::double precision) stored,
    primary key (id, entity_type, site_id)
) partition by list (entity_type);
create table job partition of run for values in ('job') with (fillfactor = 80);
create table subjob partition of run for values in ('subjob') with (fillfactor = 80);

create index run_started on run (started_at, id);
create index run_ended on run (ended_at, id);
create index run_inserted on run (inserted_at, id);
create index run_status on run (status, started_at);
create index run_job_key on run (job_key, started_at);
create index subjob_parent on subjob (parent_id, started_at);
