"""How long to wait before the next try."""

import random
from collections.abc import Iterator


def full_jitter(first_seconds: float = 0.2, most_seconds: float = 30.0) -> Iterator[float]:
    """Delays drawn between 0 and a bound that doubles up to *most_seconds*: peers that failed together come back apart."""
    bound = first_seconds
    while True:
        yield random.uniform(0, bound)  # noqa: S311 - spread, not secrecy
        bound = min(bound * 2, most_seconds)
