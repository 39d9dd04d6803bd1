"""The answers of central: every question goes to the site that was asked for, with all its parameters.

One site's answer is passed on as the bytes that came. A site that gives none is an error that says why.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fabmon.clock import monotonic
from fabmon.errors import BadParameter, PeerUnavailable, SiteFailed, SiteTooSlow, UnknownSite
from fabmon.httpd.app import get, json_answer
from fabmon.metrics import SITE_FAILURES
from fabmon.peer.client import Peer
from fabmon.wire.codec import decode_object

HEALTH_SECONDS: Final = 2.0


def site_routes(peers: Mapping[str, Peer], deadline_seconds: float) -> list[Route]:
    async def forward(request: Request) -> Response:
        pairs = request.query_params.multi_items()
        site = _one_site(pairs, peers)
        rest = [(name, value) for name, value in pairs if name != "site"]
        return await _ask(peers[site], site, request.url.path, rest, deadline_seconds)

    async def sites(request: Request) -> Response:
        found = [{"id": name, "endpoint": peer.url} for name, peer in peers.items()]
        return json_answer({"sites": found, "count": len(found)})

    return [get("/v1/jobs", forward), get("/v1/subjobs", forward), get("/v1/sites", sites)]


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


async def _ask(peer: Peer, site: str, path: str, pairs: list[tuple[str, str]], deadline_seconds: float) -> Response:
    begun = monotonic()
    try:
        answer = await peer.get(path, pairs, deadline_seconds)
    except PeerUnavailable as error:
        if isinstance(error.__cause__, TimeoutError):
            SITE_FAILURES.labels(site, "timeout").inc()
            raise SiteTooSlow(f"site {site}: {error}") from error
        SITE_FAILURES.labels(site, "refused").inc()
        raise SiteFailed(f"site {site}: {error}") from error
    is_json = answer.content_type.partition(";")[0] in ("application/json", "application/problem+json")
    if not is_json or (answer.status != 200 and not 400 <= answer.status < 500) or answer.status in (401, 403):
        SITE_FAILURES.labels(site, f"http_{answer.status}").inc()
        raise SiteFailed(f"site {site}: {peer.url} answered {answer.status}")
    headers = {"x-fabmon-site": site, "x-fabmon-took-seconds": f"{monotonic() - begun:.6f}"}
    return Response(answer.body, answer.status, headers, answer.content_type)


def _one_site(pairs: list[tuple[str, str]], peers: Mapping[str, Peer]) -> str:
    given = [value for name, value in pairs if name == "site"]
    if not given or not given[0]:
        raise BadParameter("site", f"required: one of {', '.join(peers) or '(no site is configured)'}")
    if len(given) > 1:
        raise BadParameter("site", "given twice")
    if given[0] not in peers:
        raise UnknownSite(f"site {given[0][:64]!r} is not configured; /v1/sites lists those that are")
    return given[0]
