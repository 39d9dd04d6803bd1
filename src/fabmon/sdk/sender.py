"""A process of its own that sends what short runs of `fabmon run` have left: `python -m fabmon.sdk.sender URL LOCK`.

unsent/mark.py starts it and hands it the lock that makes it the only one for its sidecar. It goes on for as long as more
comes, and a little longer, so a script with a thousand short runs has one sender. A sidecar that is away is tried for some
seconds; then what is left is put into few files, and the next run, or the sidecar itself, sends it.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from fabmon.durable import lock, unlock
from fabmon.sdk.address import read_address, unsent_place
from fabmon.sdk.emitter import what_needs_a_person
from fabmon.sdk.post import Post
from fabmon.unsent import files

LINGER_SECONDS: Final = 1.0
LOOK_EVERY_SECONDS: Final = 0.05
FIRST_RETRY_SECONDS: Final = 0.25
PATIENCE_SECONDS: Final = 10.0


def main(url: str, lock_file: int) -> None:
    address = read_address(url)
    directory, name = Path(unsent_place()), address.short_name
    post = Post(address, os.environ, lambda: None)
    with suppress(FileNotFoundError):  # the directory is gone, and with it what was to be sent
        while (others := _send(post, directory, name, lock_file)) is not None:
            unlock(lock_file)
            # Who leaves something from now on finds no lock; who did so just before relies on us.
            if not files.waiting(directory, name) - others or not lock(lock_file):
                return
        unlock(lock_file)  # before this process ends, which takes a moment: a run that comes now starts the next sender


def _send(post: Post, directory: Path, name: str, lock_file: int) -> set[str] | None:
    """Until nothing has come for a while: then what is there and not to be had, because another has claimed it, say.

    None when the sidecar has been away for too long, or refuses us.
    """
    delay = FIRST_RETRY_SECONDS
    quiet_since = away_since = time.monotonic()
    there: set[str] = set()
    while time.monotonic() < quiet_since + LINGER_SECONDS:
        there = files.waiting(directory, name)
        try:
            sent = _send_waiting(post, directory, name) if there else []
            if not sent:
                time.sleep(LOOK_EVERY_SECONDS)
                continue
            _note(lock_file, next(filter(None, sent), ""))
            delay = FIRST_RETRY_SECONDS
            quiet_since = away_since = time.monotonic()
        except FileNotFoundError:
            raise
        except Exception as error:  # noqa: BLE001  (nobody reads a traceback of ours)
            trouble = what_needs_a_person(error)
            _note(lock_file, trouble or "")
            if trouble or time.monotonic() > away_since + PATIENCE_SECONDS:  # the next run may have a better token
                files.tidy(directory, name)
                return None
            time.sleep(delay)
            delay *= 2
            quiet_since = time.monotonic()
    return there


def _send_waiting(post: Post, directory: Path, name: str) -> list[str | None]:
    """For each file that was sent what `files.deliver` says of it."""
    with files.claims(directory, name) as found:
        return [files.deliver(post.batch, claimed) for claimed in found]


def _note(lock_file: int, trouble: str) -> None:
    """For the next run to say: nobody sees what we say."""
    os.ftruncate(lock_file, 0)
    os.pwrite(lock_file, trouble.encode(errors="replace")[:1000], 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
