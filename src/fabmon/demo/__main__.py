"""`python -m fabmon.demo`: the simulated fab as a process of its own.

SIGTERM or SIGINT ends it within a second, with exit code 0. Jobs that are running then are never heard of again, as
with a real fab whose network is gone.
"""

import argparse
import asyncio
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from fabmon import clock
from fabmon.demo.delivery import Delivery, deliveries
from fabmon.demo.send import open_sender, pause
from fabmon.wire.event import SITE_ID_PATTERN, Event

TICK_SECONDS: Final = 0.1
TICK_EVENTS: Final = 1_000  # the backlog of the start, and of a computer that slept, leaves in portions

log = logging.getLogger("fabmon.demo")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_run(options.url, options.site, options.seed, options.speed))
    return 0


async def feed(plan: Iterator[Delivery], offer: Callable[[Event], None], stop: asyncio.Event) -> None:
    """Offer each event of *plan* when its time has come, until *stop*."""
    upcoming = next(plan)
    while not stop.is_set():
        now = clock.now()
        for _ in range(TICK_EVENTS):
            if upcoming.at > now:
                break
            offer(upcoming.event)
            upcoming = next(plan)
        await pause(stop, TICK_SECONDS)


async def _run(url: str, site_id: str, seed: int, speed: float) -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    plan = deliveries(seed=seed, site_id=site_id, start=clock.now(), speed=speed)
    log.info("demo.started sidecar=%s site=%s seed=%d speed=%s", url, site_id, seed, speed)
    async with open_sender(url) as sender:
        await feed(plan, sender.offer, stop)
    log.info(
        "demo.stopped accepted=%d rejected=%d dropped=%d unsent=%d",
        sender.accepted_total,
        sender.rejected_total,
        sender.dropped_total,
        sender.waiting,
    )


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def on_signal(_number: int, _frame: object) -> None:
        with suppress(RuntimeError):  # a second signal may come when the loop is closed
            loop.call_soon_threadsafe(stop.set)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fabmon.demo", description="A simulated fab that reports to a sidecar."
    )
    parser.add_argument("--url", type=_url, required=True, help="the sidecar, such as http://127.0.0.1:8000")
    parser.add_argument("--site", type=_site, required=True, help="the site_id of every event")
    parser.add_argument("--seed", type=int, default=7, help="the course of the shift (default 7)")
    parser.add_argument(
        "--speed", type=_speed, default=1.0, help="how busy the fab is; 1.0 is about 10 events/s, at most 50"
    )
    return parser


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is no http address")
    return text


def _site(text: str) -> str:
    if not re.search(SITE_ID_PATTERN, text):
        raise argparse.ArgumentTypeError("1 to 64 letters, digits, dots, dashes or underscores")
    return text


def _speed(text: str) -> float:
    speed = float(text)
    if not 0.01 <= speed <= 50:
        raise argparse.ArgumentTypeError("a number from 0.01 to 50")
    return speed


if __name__ == "__main__":
    sys.exit(main())
