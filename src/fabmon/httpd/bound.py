"""What a site-bound token leaves of events and sites.

The sites of the token that a request presented are held beside the request (a ContextVar: every request is a task), so that
no front door can forget to ask for them: the sink behind all doors does, and so does the table of sites in central.
"""

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Final, TypeVar

from fabmon.wire.event import Batch, Receipt, Rejection, Sink

T = TypeVar("T")

allowed_sites: Final[ContextVar[frozenset[str] | None]] = ContextVar("fabmon_allowed_sites", default=None)
"""The sites of the request under way; None: all."""


def within_sites(sink: Sink) -> Sink:
    """*sink*, with events of a site that the token is not for refused one by one (`forbidden_site`)."""

    async def bounded(batch: Batch) -> Receipt:
        sites = allowed_sites.get()
        if sites is None:
            return await sink(batch)
        kept = [place for place, event in enumerate(batch.events) if event.site_id in sites]
        if len(kept) == len(batch.events):
            return await sink(batch)
        receipt = Receipt()
        if kept:
            part = Batch([batch.events[place] for place in kept], [batch.raws[place] for place in kept])
            receipt = await sink(part)
        inside = set(kept)
        refused = [
            Rejection(place, "forbidden_site", "the token is not for this event's site")
            for place in range(len(batch.events))
            if place not in inside
        ]
        late = [Rejection(kept[why.index], why.code, why.detail) for why in receipt.rejected]
        receipt.rejected = sorted([*refused, *late], key=lambda why: why.index)
        return receipt

    return bounded


class Visible(Mapping[str, T]):
    """*everything* by site, of which a request sees its token's sites; the others do not exist for it."""

    def __init__(self, everything: Mapping[str, T]) -> None:
        self._everything = everything

    def __getitem__(self, site: str) -> T:
        if not _is_allowed(site):
            raise KeyError(site)
        return self._everything[site]

    def __iter__(self) -> Iterator[str]:
        return (site for site in self._everything if _is_allowed(site))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _is_allowed(site: str) -> bool:
    sites = allowed_sites.get()
    return sites is None or site in sites
