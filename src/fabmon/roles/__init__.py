"""Which parts go together: one module per role."""
