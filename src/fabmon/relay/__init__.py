"""From here to the next fabmon: send now, or spool and replay."""
