"""Where fabmon keeps its files unless it is told. Imports nothing that a start would feel."""

import os
import sys


def default_data_dir() -> str:
    """Where data lives unless told: the system's place for root, the user's for a user."""
    if sys.platform == "win32":
        return os.path.join(os.environ.get("LOCALAPPDATA") or os.path.expanduser("~"), "fabmon")
    if os.geteuid() == 0:
        return "/var/lib/fabmon"
    return (os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")) + "/fabmon"
