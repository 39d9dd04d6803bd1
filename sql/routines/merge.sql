-- What merge_runs (queries/write.sql) needs to say "the value at the highest position wins".

create or replace function is_later(new_pos text, old_pos text) returns boolean
language sql immutable parallel safe
return new_pos is not null and (old_pos is null or new_pos collate "C" > old_pos collate "C");

-- The entries of *new* whose position is higher than the one that *old_pos* has for the same name.
create or replace function later_entries(new jsonb, new_pos jsonb, old_pos jsonb) returns jsonb
language sql immutable parallel safe
return case
    when new = '{}' then new
    when old_pos = '{}' then new
    else (
        select coalesce(jsonb_object_agg(name, value), '{}')
        from jsonb_each(new) as entry (name, value)
        where is_later(new_pos ->> name, old_pos ->> name)
    )
end;
