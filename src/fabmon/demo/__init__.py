"""A simulated fab that reports through the real HTTP API."""
