-- Which jobs took the most: orders by what a program used, which is known at its end and changes once in a job's life.
-- An order by what each event changes (progress, counts, the last event) has no index: keeping one would cost every event.
create index run_cpu_user on run (cpu_user_s, id);
create index run_cpu_system on run (cpu_system_s, id);
create index run_memory on run (mem_max_mb, id);
