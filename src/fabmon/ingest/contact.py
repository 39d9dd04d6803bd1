"""What sidecars tell of themselves: kept for a second, then written for all of them together.

The spool of a `local` holds events back as a sidecar does, and is known like one, by its own id.
"""

import asyncio
import platform
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fabmon.clock import monotonic, now
from fabmon.errors import BadParameter, Forbidden, Overloaded, StoreUnavailable
from fabmon.httpd.body import read_body
from fabmon.httpd.bound import allowed_sites
from fabmon.spool.spool import Spool
from fabmon.store.pool import Pool
from fabmon.store.schema import Schema
from fabmon.store.sidecars import Heard, write_contacts
from fabmon.tasks import beside
from fabmon.version import __version__
from fabmon.wire.contact import (
    AGE_HEADER,
    CLOCK_HEADER,
    CONTACT,
    ID_HEADER,
    PENDING_HEADER,
    SAID_AT_HEADER,
    Contact,
    read_clock,
)
from fabmon.wire.ids import read_uuid

_FLUSH_SECONDS: Final = 1.0
_BODY_LIMIT_BYTES: Final = 4096
# More than a site has; past that somebody invents them.
_MOST_WAITING: Final = 10_000

# As long as a sidecar waits for an answer to its word.
_USUAL_JOURNEY_SECONDS: Final = 2.0
_LONGEST_JOURNEY_SECONDS: Final = 366 * 86_400.0

_CLOCK: Final = CLOCK_HEADER.encode()
_SAID_AT: Final = SAID_AT_HEADER.encode()
_ID: Final = ID_HEADER.encode()
_PENDING: Final = PENDING_HEADER.encode()
_AGE: Final = AGE_HEADER.encode()


class Contacts:
    """The newest word of each sidecar that was heard since the last flush."""

    def __init__(self) -> None:
        self._heard: dict[str, Heard] = {}

    def heard(self, id: str, at: float, contact: Contact) -> None:
        """*at*: when it composed its word; what it took since then is not in it.

        Raises Overloaded when more sidecars than can be are heard at once.
        """
        if id not in self._heard and len(self._heard) >= _MOST_WAITING:
            raise Overloaded(f"{_MOST_WAITING} sidecars were heard in a second")
        self.put(id, at, contact)

    def put(self, id: str, at: float, contact: Contact) -> None:
        """As `heard`, without a bound: for our own word."""
        self._heard[id] = Heard(id, at, contact)

    def take(self) -> list[Heard]:
        taken, self._heard = list(self._heard.values()), {}
        return taken

    def give_back(self, taken: Sequence[Heard]) -> None:
        """What could not be written; newer words stay, and the bound holds."""
        for heard in taken:
            if len(self._heard) >= _MOST_WAITING:
                break
            self._heard.setdefault(heard.id, heard)


@asynccontextmanager
async def keep_contacts(
    pool: Pool, schema: Schema, contacts: Contacts, spool: Spool, site_id: str | None
) -> AsyncIterator[None]:
    """Write what was heard, and what our own *spool* holds back, once a second as long as the context is open."""
    async with beside("contacts", _flush_always(pool, schema, contacts, spool, site_id)):
        yield


def contact_routes(contacts: Contacts, site_id: str | None) -> list[Route]:
    """POST /v1/ingest/sidecars/{id}: a sidecar that has nothing to send says that it is there.

    *site_id*: of this role, if it serves one alone.
    """

    async def say(request: Request) -> Response:
        at = monotonic()
        id = read_uuid("id", request.path_params["id"])
        body = await read_body(request.scope, request.receive, _BODY_LIMIT_BYTES)
        try:
            contact = CONTACT.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadParameter("body", str(error)) from None
        if not _may_speak(site_id or contact.site_id):
            raise Forbidden("the token is not for this sidecar's site")
        said_at = read_clock(request.headers.get(SAID_AT_HEADER))
        contacts.heard(str(id), _composed_at(at, said_at), contact)
        return Response(status_code=204, headers={CLOCK_HEADER: _clock().decode()})

    return [Route("/v1/ingest/sidecars/{id}", say, methods=["POST"])]


def hearing(contacts: Contacts, routes: Sequence[Route], site_id: str | None) -> list[Route]:
    """The same *routes*, with an ear for the headers of sidecars."""
    heard = []
    for route in routes:
        methods = list(route.methods or ())
        heard.append(Route(route.path, _Hearing(contacts, route.endpoint, site_id), methods=methods))
    return heard


class _Hearing:
    def __init__(self, contacts: Contacts, app: ASGIApp, site_id: str | None) -> None:
        self._contacts = contacts
        self._app = app
        self._site_id = site_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        at = monotonic()

        async def send_with_clock(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (_CLOCK, _clock())]
            await send(message)

        headers = dict(scope["headers"])
        await self._app(scope, receive, send_with_clock if _ID in headers else send)
        # Behind the answer: only who may send events is heard here, and the batch is stored by now.
        if _ID in headers and _may_speak(self._site_id):
            _hear(self._contacts, at, headers)


def _clock() -> bytes:
    return b"%.6f" % now().timestamp()


def _composed_at(arrived_at: float, said_at: float | None) -> float:
    """When a word was composed, by our monotonic clock; of one that does not say, as early as may be usual.

    A clock that was set, or another `local`'s that is ahead, is put right by the next word.
    """
    if said_at is None:
        return arrived_at - _USUAL_JOURNEY_SECONDS
    ago_seconds = now().timestamp() - said_at
    return min(arrived_at, monotonic() - min(ago_seconds, _LONGEST_JOURNEY_SECONDS))


def _may_speak(site_id: str | None) -> bool:
    """Whether the token of this request is for *site_id*; a token of one site speaks for no unknown one."""
    sites = allowed_sites.get()
    return sites is None or site_id in sites


def _hear(contacts: Contacts, at: float, said: dict[bytes, bytes]) -> None:
    """A header that is none of ours harms nobody: the batch was stored."""
    try:
        id = str(read_uuid("id", said[_ID].decode("ascii")))
        age = said.get(_AGE)
        contact = msgspec.convert({"pending": int(said[_PENDING]), "oldest_pending_age_s": age and float(age)}, Contact)
        contacts.heard(id, _composed_at(at, read_clock(said.get(_SAID_AT, b"").decode("latin-1"))), contact)
    except (BadParameter, Overloaded, KeyError, ValueError):
        return


async def _flush_always(pool: Pool, schema: Schema, contacts: Contacts, spool: Spool, site_id: str | None) -> None:
    told_pending = True  # whoever had this spool before may have told so
    while True:
        await asyncio.sleep(_FLUSH_SECONDS)
        if spool.pending or told_pending:
            told_pending = bool(spool.pending)
            contacts.put(spool.id, monotonic(), _own_word(spool, site_id))
        taken = contacts.take()
        if not taken:
            continue
        try:
            await schema.must_match()
            await write_contacts(pool, taken)
        except StoreUnavailable:
            contacts.give_back(taken)
            told_pending = True  # our own word may have found no room


def _own_word(spool: Spool, site_id: str | None) -> Contact:
    """Of our own spool; while it is empty it need not be heard."""
    return Contact(
        pending=spool.pending,
        oldest_pending_age_s=spool.oldest_pending_age(),
        site_id=site_id,
        host=platform.node()[:200] or None,
        version=__version__,
        stopped=not spool.pending,
    )
