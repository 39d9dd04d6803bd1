"""What sidecars tell of themselves: kept for a second, then written for all of them together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fabmon.clock import monotonic
from fabmon.errors import BadParameter, Overloaded, StoreUnavailable
from fabmon.httpd.body import read_body
from fabmon.store.pool import Pool
from fabmon.store.schema import Schema
from fabmon.store.sidecars import Heard, write_contacts
from fabmon.wire.contact import AGE_HEADER, CONTACT, ID_HEADER, PENDING_HEADER, Contact
from fabmon.wire.ids import read_uuid

_FLUSH_SECONDS: Final = 1.0
_BODY_LIMIT_BYTES: Final = 4096
# More than a site has; past that somebody invents them.
_MOST_WAITING: Final = 10_000

_ID: Final = ID_HEADER.encode()
_PENDING: Final = PENDING_HEADER.encode()
_AGE: Final = AGE_HEADER.encode()


class Contacts:
    """The newest word of each sidecar that was heard since the last flush."""

    def __init__(self) -> None:
        self._heard: dict[str, Heard] = {}

    def heard(self, id: str, contact: Contact) -> None:
        """Raises Overloaded when more sidecars than can be are heard at once."""
        if id not in self._heard and len(self._heard) >= _MOST_WAITING:
            raise Overloaded(f"{_MOST_WAITING} sidecars were heard in a second")
        self._heard[id] = Heard(id, monotonic(), contact)

    def take(self) -> list[Heard]:
        taken, self._heard = list(self._heard.values()), {}
        return taken

    def give_back(self, taken: Sequence[Heard]) -> None:
        """What could not be written; newer words stay."""
        self._heard = {heard.id: heard for heard in taken} | self._heard


@asynccontextmanager
async def keep_contacts(pool: Pool, schema: Schema, contacts: Contacts) -> AsyncIterator[None]:
    """Write what was heard, once a second, as long as the context is open, and once more at its end."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_flush_always(pool, schema, contacts), name="contacts")
        try:
            yield
        finally:
            task.cancel()


def contact_routes(contacts: Contacts) -> list[Route]:
    """POST /v1/ingest/sidecars/{id}: a sidecar that has nothing to send says that it is there."""

    async def say(request: Request) -> Response:
        id = read_uuid("id", request.path_params["id"])
        body = await read_body(request.scope, request.receive, _BODY_LIMIT_BYTES)
        try:
            contact = CONTACT.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadParameter("body", str(error)) from None
        contacts.heard(str(id), contact)
        return Response(status_code=204)

    return [Route("/v1/ingest/sidecars/{id}", say, methods=["POST"])]


def hearing(contacts: Contacts, routes: Sequence[Route]) -> list[Route]:
    """The same *routes*, with an ear for the headers of sidecars."""
    heard = []
    for route in routes:
        methods = list(route.methods or ())
        heard.append(Route(route.path, _Hearing(contacts, route.endpoint), methods=methods))
    return heard


class _Hearing:
    def __init__(self, contacts: Contacts, app: ASGIApp) -> None:
        self._contacts = contacts
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
        # Behind the answer: only who may send events is heard here, and the batch is stored by now.
        headers = dict(scope["headers"])
        if _ID in headers:
            _hear(self._contacts, headers)


def _hear(contacts: Contacts, said: dict[bytes, bytes]) -> None:
    """A header that is none of ours harms nobody: the batch was stored."""
    try:
        id = str(read_uuid("id", said[_ID].decode("ascii")))
        age = said.get(_AGE)
        contact = msgspec.convert({"pending": int(said[_PENDING]), "oldest_pending_age_s": age and float(age)}, Contact)
        contacts.heard(id, contact)
    except (BadParameter, Overloaded, KeyError, ValueError):
        return


async def _flush_always(pool: Pool, schema: Schema, contacts: Contacts) -> None:
    while True:
        await asyncio.sleep(_FLUSH_SECONDS)
        taken = contacts.take()
        if not taken:
            continue
        try:
            await schema.must_match()
            await write_contacts(pool, taken)
        except StoreUnavailable:
            contacts.give_back(taken)
