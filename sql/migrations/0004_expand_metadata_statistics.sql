-- How often a value of metadata is found is guessed from a sample of rows. With the usual hundred, what one job in 5,000 has
-- looks like what one in a hundred has, and the list is read instead of the index (docs/decisions/0004-query-indexes.md).
alter table job alter column metadata set statistics 300;
alter table subjob alter column metadata set statistics 300;
analyze job, subjob;
