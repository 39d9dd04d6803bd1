-- The agents that send events here, by the id of their spool; one row each, overwritten by its newest word.

create table sidecar (
    id uuid primary key,
    site_id text collate "C",
    host text,
    version text,
    contact_at timestamptz not null,
    pending bigint not null,
    oldest_pending_at timestamptz,
    stopped boolean not null
);
comment on table sidecar is 'Who holds back events: a spool with pending ones, or one that has not been heard since';
comment on column sidecar.stopped is 'It ended in order, and held nothing';
