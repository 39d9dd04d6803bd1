-- name: find_uncompressed
-- Whole chunks behind the bound that are not compressed yet, the oldest first.
-- in: days int, chunks int  out: chunk text, compression_enabled bool (of the hypertable)
select format('%%I.%%I', chunk_schema, chunk_name) as chunk, compression_enabled
from timescaledb_information.chunks
join timescaledb_information.hypertables using (hypertable_schema, hypertable_name)
where format('%%I.%%I', hypertable_schema, hypertable_name)::regclass = 'event'::regclass
    and not is_compressed
    and range_end <= now() - make_interval(days => %(days)s)
order by range_end
limit %(chunks)s;

-- name: enable_compression
-- In the order of the feed, so that a reader of the live stream, who asks many times a second, skips a compressed chunk by
-- its index, and one who resumes reads it from its middle. Not by segments of a job: most jobs are a handful of events.
alter table event set (
    timescaledb.compress, timescaledb.compress_segmentby = '', timescaledb.compress_orderby = 'tx, seq'
);

-- name: bound_compression
-- For the rest of the transaction. Whoever waits to have a table alone holds up all that come behind: behind a long reader,
-- such as a dump, it gives way.
select set_config('statement_timeout', '10min', true), set_config('lock_timeout', '3s', true);

-- name: compress_chunk
-- in: chunk text
select compress_chunk(%(chunk)s::regclass);
