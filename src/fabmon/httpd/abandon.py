"""Work that ends with its reader: when the connection goes, the query behind it is canceled in the database too."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def abandonable(endpoint: Endpoint) -> Endpoint:
    """*endpoint*, canceled as soon as its caller disconnects."""

    async def watched(request: Request) -> Response:
        done = await until_disconnect(request.receive, endpoint(request))
        return done if done is not None else Response(status_code=499)  # nobody is there to read it

    return watched


async def until_disconnect(receive: Callable[[], Awaitable[Message]], work: Coroutine[Any, Any, Any]) -> Any:
    """The result of *work*, or None when the caller disconnected first."""
    async with asyncio.TaskGroup() as tasks:
        doing = tasks.create_task(_settled(work), name="work")
        watching = tasks.create_task(_disconnected(receive), name="watch")
        await asyncio.wait([doing, watching], return_when=asyncio.FIRST_COMPLETED)
        finished = doing.done()
        doing.cancel()
        watching.cancel()
    if not finished:
        return None
    result, error = doing.result()
    if error is not None:
        raise error
    return result


class Streamed:
    """An answer whose body is written as it is made, and abandoned with its reader."""

    def __init__(self, parts: AsyncIterator[bytes], content_type: str) -> None:
        self._parts = parts
        self._headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._write(send))

    async def _write(self, send: Send) -> None:
        # The first part comes before the head: an error that comes first is still an answer.
        first = await anext(self._parts, b"")
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _settled(work: Coroutine[Any, Any, Any]) -> tuple[Any, Exception | None]:
    """An error is a result here: it must reach the caller as itself, not as a group."""
    try:
        return await work, None
    except Exception as error:  # noqa: BLE001 - raised again by until_disconnect
        return None, error


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
