-- name: hear_commits
-- Hear of other processes' commits on this connection, and let them know by a lock that somebody does.
select pg_advisory_lock_shared(%(class)s, %(object)s);

-- name: tell_commit
-- Wake those who listen, but for *mine*; no row when nobody does. The notice may be lost in a crash, and commits at once.
-- in: class int, object int, mine int
select set_config('synchronous_commit', 'off', true), pg_notify('fabmon_commit', '')
where exists (
    select from pg_locks
    where locktype = 'advisory' and classid = %(class)s::bigint and objid = %(object)s::bigint
        and database = (select oid from pg_database where datname = current_database())
        and pid <> %(mine)s
);
