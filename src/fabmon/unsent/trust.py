"""Which files are read: plain ones, of our own user or of the directory's owner, not larger than ours ever are.

Whoever else may write into the directory is not heard: a sidecar of root may be told to look into many.
"""

import os
import stat
from pathlib import Path
from typing import Final

# A chunk (files.py), and one event more.
FILE_LIMIT_BYTES: Final = 4 * 1024 * 1024


def is_trusted(found: os.stat_result, directory: Path) -> bool:
    plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size <= FILE_LIMIT_BYTES
    return plain and (os.name == "nt" or found.st_uid in (os.geteuid(), directory.stat().st_uid))
