"""A durable queue of events in plain files; drawn in docs/spool-format.md."""
