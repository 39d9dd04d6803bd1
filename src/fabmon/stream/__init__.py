"""The live stream: change feed, fan-out, server-sent events."""
