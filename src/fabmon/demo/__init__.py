"""A simulated fab that reports through the real HTTP API.

plant.py (what stands in the fab) -> fab.py (jobs and their events) -> delivery.py (when each event is sent: late,
twice, out of order) -> send.py (HTTP). All but the last are pure: a seed and a start time give the same events.
"""
