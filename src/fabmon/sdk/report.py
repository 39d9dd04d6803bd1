"""From a job to its sidecar, at no cost to the job.

`Reporter` sends events from one background thread; the caller only appends to a bounded queue. What the sidecar has not
taken is kept in DATA_DIR/unsent, and sent by the next run that reaches the same sidecar:

    unsent/<address>-<job>.jsonl              one run's events, a line each, oldest first; always replaced as a whole
    unsent/<address>-<id>.<pid>.taken         claimed, by renaming, by a run that sends it; free again after 10 minutes

<address> is a hash of the sidecar's URL, so that no site's events go to another. Sending twice does no harm: an event's
idempotency key is stored once.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Final
