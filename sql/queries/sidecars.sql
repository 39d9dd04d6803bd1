-- name: write_contacts
-- The newest word of each, by when it was composed; times are the database's, so that it does not matter which local heard it.
-- in: contacts json, an array, at most one per id
insert into sidecar as old (id, site_id, host, version, contact_at, pending, oldest_pending_at, stopped)
select
    id, site_id, host, version, at, pending,
    case when pending > 0 then at - make_interval(secs => coalesce(oldest_pending_age_s, 0)) end,
    stopped and pending = 0
from json_to_recordset(%(contacts)s::json) as said (
    id uuid, seconds_ago float8, site_id text, host text, version text,
    pending bigint, oldest_pending_age_s float8, stopped boolean
)
cross join lateral (select now() - make_interval(secs => seconds_ago) as at) as heard
-- That one holds nothing, and need not be heard any more, is no news of one that never was heard.
where pending > 0 or not stopped or exists (select from sidecar where sidecar.id = said.id)
on conflict (id) do update set
    -- A batch's headers say less than a word of its own.
    site_id = coalesce(excluded.site_id, old.site_id),
    host = coalesce(excluded.host, old.host),
    version = coalesce(excluded.version, old.version),
    contact_at = greatest(excluded.contact_at, old.contact_at),
    pending = excluded.pending,
    oldest_pending_at = excluded.oldest_pending_at,
    stopped = excluded.stopped
-- One that stopped and speaks is back, though its first word may be dated before its last: it knew no time of ours yet.
where excluded.contact_at >= old.contact_at or (old.stopped and not excluded.stopped);

-- name: read_sidecars
-- holds_back_since: what it holds is not older; of one that is silent it is assumed since its last contact.
select
    id, site_id, host, version, contact_at as last_contact, pending,
    extract(epoch from now() - oldest_pending_at)::float8 as oldest_pending_age_s,
    case
        when stopped then 'stopped'
        when contact_at < now() - interval '30 seconds' then 'silent'
        when pending > 0 then 'holding'
        else 'ok'
    end as state,
    case
        when stopped then null
        when pending > 0 then least(oldest_pending_at, contact_at)
        when contact_at < now() - interval '30 seconds' then contact_at
    end as holds_back_since
from sidecar
order by id;

-- name: complete_until
-- Of a sidecar that holds nothing this is known up to its last contact, every ten seconds or so, and no further.
select min(
    case when stopped then now() when pending > 0 then least(oldest_pending_at, contact_at) else contact_at end
) as complete_until
from sidecar;

-- name: forget_sidecars
-- in: days int
delete from sidecar where contact_at < now() - make_interval(days => %(days)s::int);
