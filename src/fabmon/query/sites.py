"""The answers of central: every question goes to the sites that were asked for, with all its parameters.

One site's answer is passed on as the bytes that came. Several are asked side by side and merged (merge.py); a site that
gives no answer in time is listed with the reason, and never delays the others past the deadline.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fabmon.clock import monotonic
from fabmon.errors import BadParameter, FabmonError, NotFound, PeerUnavailable, SiteFailed, SiteTooSlow
from fabmon.httpd.abandon import Streamed, until_disconnect
from fabmon.httpd.app import get, json_answer
from fabmon.metrics import SITE_FAILURES, SITE_SECONDS
from fabmon.peer.client import Answer, Peer
from fabmon.query.merge import Part, merge_concatenated, merge_lists
from fabmon.query.params import FORMS, read_form
from fabmon.wire.codec import decode_object
from fabmon.wire.ids import read_sites_asked

HEALTH_SECONDS: Final = 2.0
MOST_SECONDS: Final = 60.0
_LISTS: Final = ("/v1/jobs", "/v1/subjobs")
_CONCATENATED: Final = ("/v1/apps", "/v1/stats", "/v1/sidecars")
_RUNS: Final = (
    "/v1/jobs/{id}",
    "/v1/jobs/{id}/events",
    "/v1/jobs/{id}/subjobs",
    "/v1/subjobs/{id}",
    "/v1/subjobs/{id}/events",
)
Pairs = list[tuple[str, str]]
Peers = Callable[[], Mapping[str, Peer]]


class Asked(msgspec.Struct, frozen=True):
    """What of a question is central's own."""

    sites: Sequence[str]
    several: bool
    require_all: bool
    deadline_seconds: float
    rest: Pairs


def site_routes(peers: Peers, deadline_seconds: float) -> list[Route]:
    """*peers* gives the sites as they are configured at the moment."""

    async def sites(request: Request) -> Response:
        found = [{"id": name, "endpoint": peer.url} for name, peer in peers().items()]
        return json_answer({"sites": found, "count": len(found)})

    asked = [
        Route(path, _Question(peers, deadline_seconds), methods=["GET"]) for path in (*_LISTS, *_CONCATENATED, *_RUNS)
    ]
    return [*asked, get("/v1/sites", sites)]


class _Question:
    """One question to one site or several; an ASGI endpoint, because an export is passed on as it comes."""

    def __init__(self, peers: Peers, deadline_seconds: float) -> None:
        self._peers = peers
        self._deadline_seconds = deadline_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        peers = self._peers()
        asked = read_asked(request.query_params.multi_items(), peers, self._deadline_seconds)
        accept = request.headers.get("accept", "")
        answer = await until_disconnect(receive, self._answer(scope, peers, asked, accept))
        if answer is not None:
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope, peers: Mapping[str, Peer], asked: Asked, accept: str) -> Any:
        path = scope["path"]
        exported = read_form(asked.rest, accept) != "json"
        if not asked.several:
            site = asked.sites[0]
            if exported:
                return await _exported(peers[site], site, path, asked, accept)
            return _passed_on(await _ask(peers[site], site, path, asked), site)
        if exported:
            raise BadParameter("format", "several sites are answered as JSON; ask one site for an export")
        parts = await ask_all(peers, path, asked)
        for site, part in parts.items():
            if part.answer is not None and part.answer.status in (400, 422):
                return _passed_on(part.answer, site)  # the question is wrong, and would be at every site
        route = scope["route"].path
        if route in _LISTS:
            return _merged(merge_lists(parts, asked.rest, "subjob" if "sub" in path else "job"), parts, asked)
        if route in _CONCATENATED:
            return _merged(merge_concatenated(parts), parts, asked)
        return _found(parts, asked)


def read_asked(pairs: Pairs, peers: Mapping[str, Peer], deadline_seconds: float) -> Asked:
    """Takes `site`, `require` and `deadline` out of the question; raises BadParameter or UnknownSite."""
    own: dict[str, str] = {}
    for name, value in pairs:
        if name in ("site", "require", "deadline"):
            if name in own:
                raise BadParameter(name, "given twice")
            own[name] = value
    rest = [(name, value) for name, value in pairs if name not in own]
    text = own.get("site", "")
    names = read_sites_asked(text, peers)
    if own.get("require", "any") not in ("any", "all"):
        raise BadParameter("require", "any or all")
    several = text == "*" or len(names) > 1
    return Asked(names, several, own.get("require") == "all", _deadline(own.get("deadline"), deadline_seconds), rest)


async def ask_all(peers: Mapping[str, Peer], path: str, asked: Asked) -> dict[str, Part]:
    """Every site's answer, or why there is none, side by side."""

    async def one(site: str) -> Part:
        begun = monotonic()
        try:
            answer = await _ask(peers[site], site, path, asked)
        except SiteFailed as error:
            return Part(status=error.status, took_s=monotonic() - begun, error=str(error))
        return Part(status="ok", took_s=monotonic() - begun, answer=answer)

    async with asyncio.TaskGroup() as tasks:
        running = {site: tasks.create_task(one(site), name=f"ask-{site}") for site in asked.sites}
    return {site: task.result() for site, task in running.items()}


async def sites_health(peers: Mapping[str, Peer]) -> dict[str, dict[str, Any]]:
    """Every site's state, asked side by side; the slowest has two seconds."""
    async with asyncio.TaskGroup() as tasks:
        asked = {name: tasks.create_task(_site_health(peer), name=f"health-{name}") for name, peer in peers.items()}
    return {name: task.result() for name, task in asked.items()}


async def _site_health(peer: Peer) -> dict[str, Any]:
    found: dict[str, Any] = {"status": "ok", "endpoint": peer.url}
    try:
        answer = await peer.get("/v1/healthz", [], HEALTH_SECONDS)
    except PeerUnavailable as error:
        return found | {"status": "degraded", "error": str(error)}
    said = decode_object(answer.body)
    if answer.status != 200 or said is None:
        return found | {"status": "degraded", "error": f"answered {answer.status}, and no health"}
    if said.get("status") != "ok":
        return found | {"status": "degraded", "error": f"says of itself: {str(said.get('status'))[:100]}"}
    return found


async def _ask(peer: Peer, site: str, path: str, asked: Asked) -> Answer:
    """The site's answer when it is one: JSON, or a refusal of the question itself; else SiteFailed."""
    try:
        with SITE_SECONDS.labels(site).time():
            answer = await peer.get(path, asked.rest, asked.deadline_seconds)
    except PeerUnavailable as error:
        raise _unavailable(site, error) from error
    _must_answer(site, peer, answer.status, answer.content_type, {"application/json"})
    return answer


async def _exported(peer: Peer, site: str, path: str, asked: Asked, accept: str) -> Any:
    """As it comes: the deadline holds for its beginning; how long the rest may take is the reader's to say."""
    try:
        status, kind, parts = await peer.stream(path, asked.rest, {"accept": accept or "*/*"}, asked.deadline_seconds)
    except PeerUnavailable as error:
        raise _unavailable(site, error) from error
    try:
        _must_answer(site, peer, status, kind, FORMS.keys())
    except SiteFailed:
        await parts.aclose()
        raise
    if status != 200:
        return _passed_on(Answer(status, kind, b"".join([part async for part in parts])), site)
    return Streamed(parts, kind)


def _unavailable(site: str, error: PeerUnavailable) -> SiteFailed:
    return _failed(site, "timeout" if isinstance(error.__cause__, TimeoutError) else "refused", str(error))


def _must_answer(site: str, peer: Peer, status: int, content_type: str, wanted: Collection[str]) -> None:
    """Raises SiteFailed, but not for a refusal of the question itself."""
    if status != 200 and (not 400 <= status < 500 or status in (401, 403, 429)):
        raise _failed(site, f"http_{status}", f"{peer.url} answered {status}")
    if content_type.partition(";")[0] not in {*wanted, "application/problem+json"}:
        raise _failed(site, "bad_answer", f"{peer.url} answered something else than {' or '.join(wanted)}")


def _failed(site: str, status: str, reason: str) -> SiteFailed:
    SITE_FAILURES.labels(site, status).inc()
    return (SiteTooSlow if status == "timeout" else SiteFailed)(f"site {site}: {reason}", status)


def _passed_on(answer: Answer, site: str) -> Response:
    return Response(answer.body, answer.status, {"x-fabmon-site": site}, answer.content_type)


def _merged(body: dict[str, Any], parts: Mapping[str, Part], asked: Asked) -> Response:
    missing = {site: part for site, part in parts.items() if part.status != "ok"}
    if missing and (asked.require_all or len(missing) == len(parts)):
        raise _failure(missing)
    headers = {"cache-control": "no-store"} if missing else {}
    return json_answer(body, headers=headers)


def _found(parts: Mapping[str, Part], asked: Asked) -> Response:
    """One run, wherever it is."""
    refused = None
    for site, part in parts.items():
        if part.answer is not None and part.answer.status == 200:
            return _passed_on(part.answer, site)
        if part.answer is not None and part.answer.status != 404:
            refused = _passed_on(part.answer, site)
    missing = {site: part for site, part in parts.items() if part.status != "ok"}
    if refused is not None:
        return refused
    if missing:
        raise _failure(missing)
    raise NotFound(f"none of {', '.join(asked.sites)} knows it")


def _failure(missing: Mapping[str, Part]) -> FabmonError:
    reasons = "; ".join(part.error or f"site {site}: {part.status}" for site, part in missing.items())
    kind = SiteTooSlow if all(part.status == "timeout" for part in missing.values()) else SiteFailed
    return kind(reasons, "several")


def _deadline(text: str | None, default: float) -> float:
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MOST_SECONDS:
        raise BadParameter("deadline", f"seconds, more than 0 and at most {MOST_SECONDS:g}")
    return seconds
