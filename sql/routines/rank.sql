-- What is said at the same moment is ordered by its kind.
create or replace function event_rank(kind text) returns int
language sql immutable parallel safe
return case when kind = 'started' then 0 when kind in ('progress', 'metric') then 1 else 2 end;
