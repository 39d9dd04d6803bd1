"""How long to wait before the next try."""

import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Final

# Whoever asks for more has made a mistake, or is gone by then.
LONGEST_WAIT_SECONDS: Final = 60.0


def full_jitter(first_seconds: float = 0.2, most_seconds: float = 30.0) -> Iterator[float]:
    """Delays drawn between 0 and a bound that doubles up to *most_seconds*: peers that failed together come back apart."""
    bound = first_seconds
    while True:
        yield random.uniform(0, bound)  # noqa: S311 - spread, not secrecy
        bound = min(bound * 2, most_seconds)


def asked_to_wait(headers: Mapping[str, str]) -> float:
    """The seconds that an answer's Retry-After asks for, at most a minute; 0 when it asks for none.

    A date counts from the answer's own Date: the clocks of the two sides need not agree.
    """
    said = headers.get("Retry-After", "").strip()
    seconds = 0.0
    if said.isascii() and said.isdigit():
        seconds = float(said[:9])
    elif said:
        with suppress(ValueError, TypeError):
            until, at = parsedate_to_datetime(said), parsedate_to_datetime(headers.get("Date", ""))
            seconds = (until - at).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)
