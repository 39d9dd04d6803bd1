"""Runs whose `fabmon run` was killed: found by their marks (mark.py), and said to be lost.

That is an event like any other, a `metric` with LOST in its metadata. A run that has not ended and whose last event is
such a one is shown with `"lost": true`; any later event of the run, and its end in any case, takes that back.
"""

import os
from pathlib import Path
from typing import Any, Final

from fabmon.durable import can_lock, lock, open_plain
from fabmon.unsent.trust import FILE_LIMIT_BYTES, is_trusted
from fabmon.wire.codec import decode_object
from fabmon.wire.event import LOST
from fabmon.wire.plain import at, encode, event_of, id_of_name

WHY: Final = "fabmon run was killed; what became of its program is not known"


def settle(directory: Path, address: str) -> None:
    """Turn the marks that belong to nobody any more into files to be sent, with the news in them."""
    if not can_lock():
        return
    for path in directory.glob(f"{address}-*.run"):
        try:
            mark = open_plain(path, os.O_RDWR)
        except OSError:
            continue
        try:
            found = os.fstat(mark)
            if is_trusted(found, directory) and lock(mark) and os.path.samestat(found, path.lstat()):
                _settle(mark, path)
        except OSError:
            continue  # settled by another, or the disk is full: the next one tries again
        finally:
            os.close(mark)


def _settle(mark: int, path: Path) -> None:
    whole = os.pread(mark, FILE_LIMIT_BYTES, 0).rpartition(b"\n")[0]  # a torn line is none
    try:
        lost = lost_event(decode_object(whole.partition(b"\n")[0]) or {})
    except (KeyError, TypeError, ValueError, RecursionError):  # no start of a run: anything may be written here
        path.unlink()
        return
    os.ftruncate(mark, len(whole) + 1)
    os.pwrite(mark, lost + b"\n", len(whole) + 1)
    path.rename(path.with_suffix(".jsonl"))


def lost_event(started: dict[str, Any]) -> bytes:
    """The event that says so of the run that *started* began. Its key is the same whoever finds out.

    Raises KeyError, TypeError, ValueError or RecursionError when *started* is none.
    """
    event = event_of(started["site_id"], started["app"], started["entity"], "metric", at(), "running", {}, {LOST: WHY})
    event["idempotency_key"] = id_of_name(f"lost {started['entity']['id']}")
    return encode(event)
