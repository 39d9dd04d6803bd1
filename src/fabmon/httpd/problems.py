"""The one table that turns errors into answers. Endpoints only raise."""

import math
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fabmon.errors import (
    BadEncoding,
    BadEvent,
    BadParameter,
    BadRequest,
    FabmonError,
    Forbidden,
    NotAnArray,
    NotFound,
    NotJson,
    Overloaded,
    PeerUnavailable,
    SiteFailed,
    SiteTooSlow,
    SpoolFailed,
    SpoolFull,
    StoreUnavailable,
    TooLarge,
    TooManyFailures,
    Unauthorized,
    Unavailable,
    UnknownSite,
)
from fabmon.logs import Log
from fabmon.wire.codec import encode
from fabmon.wire.problem import CONTENT_TYPE, Problem

log = Log("fabmon.http")

# The most specific class counts. Title and status; the type is `/problems/` and the error's code.
CATALOGUE: Final[dict[type[FabmonError], tuple[str, int]]] = {
    BadRequest: ("The request cannot be understood", 400),
    NotJson: ("The body is no JSON", 400),
    NotAnArray: ("A batch is a JSON array", 400),
    BadEncoding: ("The Content-Encoding cannot be read", 415),
    TooLarge: ("The request is too large", 413),
    BadEvent: ("The event breaks a rule", 422),
    BadParameter: ("A query parameter is wrong", 422),
    NotFound: ("There is no such thing", 404),
    UnknownSite: ("There is no such site", 404),
    Unauthorized: ("A valid token is needed", 401),
    Forbidden: ("The token may not do this", 403),
    Unavailable: ("Not now; try again", 503),
    Overloaded: ("Too many requests are waiting; try again", 503),
    StoreUnavailable: ("The database does not answer; try again", 503),
    SpoolFull: ("The spool is full; try again later", 507),
    SpoolFailed: ("The disk under the spool fails; try again later", 503),
    TooManyFailures: ("Too many failed attempts; try again later", 429),
    PeerUnavailable: ("The other side does not answer; try again", 503),
    SiteFailed: ("The site gave no answer", 502),
    SiteTooSlow: ("The site gave no answer in time", 504),
}
_BY_STATUS: Final = {404: "not_found", 405: "method_not_allowed"}


async def on_fabmon_error(request: Request, error: Exception) -> Response:
    """An error that we raised on purpose, as the catalogue says it."""
    title, status = next(CATALOGUE[kind] for kind in type(error).__mro__ if kind in CATALOGUE)
    code = getattr(error, "code", "failed")
    retry_after = error.retry_after_seconds if isinstance(error, Unavailable) else msgspec.UNSET
    parameter = error.parameter if isinstance(error, BadParameter) else ""
    problem = Problem(_type(code), title, status, str(error), request.url.path, code, parameter, retry_after)
    return answer(problem, {"www-authenticate": "Bearer"} if status == 401 else None)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the router raises: no such route, or not with this method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    code = _BY_STATUS.get(error.status_code, "http_error")
    problem = Problem(_type(code), error.detail, error.status_code, error.detail, request.url.path, code)
    return answer(problem, dict(error.headers or {}))


async def on_bug(request: Request, error: Exception) -> Response:
    """What nobody expected. The log holds it, the answer does not: it may speak of what is inside."""
    log.error("request.failed", exc_info=error, path=request.url.path)
    return answer(Problem(_type("internal"), "A defect of fabmon", 500, "see the log", request.url.path, "internal"))


def answer(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    headers = headers or {}
    if problem.retry_after_s is not msgspec.UNSET:
        headers["retry-after"] = str(math.ceil(problem.retry_after_s))
    return Response(encode(problem), problem.status, headers, CONTENT_TYPE)


HANDLERS: Final = {FabmonError: on_fabmon_error, HTTPException: on_http_exception, Exception: on_bug}


def _type(code: str) -> str:
    return "/problems/" + code.replace("_", "-")
