"""GET /openapi.json: made from the routes and from a `Doc` for each, so a route without one does not start.

A `Doc` names the parameters that the route's reader knows and the types that its body is decoded with; schemas come from
those types.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fabmon.httpd.app import get, json_answer
from fabmon.version import __version__
from fabmon.wire.problem import CONTENT_TYPE as PROBLEM_TYPE
from fabmon.wire.problem import Problem

_CONVERTER: Final = re.compile(r":\w+\}")  # Starlette's {key:path} is {key} to everyone else
STRING: Final = {"type": "string"}
TIME: Final = {"type": "string", "format": "date-time"}
UUID: Final = {"type": "string", "format": "uuid"}
BOOLEAN: Final = {"type": "boolean"}


class Param(msgspec.Struct, frozen=True):
    """A parameter of the query string, or of the path when the path names it."""

    name: str
    description: str
    schema: Mapping[str, Any] = msgspec.field(default_factory=lambda: STRING)
    required: bool = False


class Doc(msgspec.Struct, frozen=True, kw_only=True):
    """What a route takes and gives. *body* and *answer* are types, as msgspec knows them."""

    summary: str
    parameters: Sequence[Param] = ()
    body: Any = None
    answer: Any = dict[str, Any]
    content_types: Sequence[str] = ("application/json",)
    success: int = 200
    statuses: Sequence[int] = ()  # of problems
    judged: Sequence[int] = ()  # statuses that come with the answer itself, because it was judged part by part


def openapi_route(routes: Sequence[BaseRoute], docs: Mapping[str, Doc], title: str) -> Route:
    """The route that describes *routes* and itself by *docs*; a route that *docs* does not know is a KeyError at start."""

    async def openapi(request: Request) -> Response:
        return json_answer(document)

    itself = get("/openapi.json", openapi)
    document = describe([*routes, itself], docs, title)
    return itself


def describe(routes: Sequence[BaseRoute], docs: Mapping[str, Doc], title: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of *routes*."""
    found = [(route, docs[route.path]) for route in routes if isinstance(route, Route)]
    types = [Problem, *(doc.answer for _, doc in found), *(doc.body for _, doc in found if doc.body is not None)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    named = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route, doc in found:
        for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
            path = _CONVERTER.sub("}", route.path)
            paths.setdefault(path, {})[method.lower()] = _operation(path, doc, named)
    document = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }
    # JSON Schema anchors a pattern with ^ and $, Python with \\A and \\Z.
    text = msgspec.json.encode(document).replace(rb"\\A", b"^").replace(rb"\\Z", b"$")
    anchored: dict[str, Any] = msgspec.json.decode(text)
    return anchored


def _operation(path: str, doc: Doc, named: Mapping[str, Any]) -> dict[str, Any]:
    problem = {"content": {PROBLEM_TYPE: {"schema": named[repr(Problem)]}}}
    answer = {"content": {kind: {"schema": named[repr(doc.answer)]} for kind in doc.content_types}}
    operation: dict[str, Any] = {
        "summary": doc.summary,
        "responses": {
            str(doc.success): {"description": "The answer.", **(answer if doc.success != 204 else {})},
            **{str(status): {"description": _MEANINGS[status], **problem} for status in doc.statuses},
            **{
                str(status): {"description": _MEANINGS[status], "content": answer["content"] | problem["content"]}
                for status in doc.judged
            },
        },
    }
    if doc.parameters:
        operation["parameters"] = [
            {
                "name": param.name,
                "in": "path" if f"{{{param.name}}}" in path else "query",
                "required": param.required or f"{{{param.name}}}" in path,
                "description": param.description,
                "schema": param.schema,
            }
            for param in doc.parameters
        ]
    if doc.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": named[repr(doc.body)]}},
        }
    return operation


_MEANINGS: Final = {
    207: "Some events were refused; `rejected` says which.",
    400: "The body is no JSON.",
    404: "There is no such thing.",
    413: "The body is too large.",
    415: "The Content-Encoding cannot be read.",
    422: "A rule is broken; `code` says which.",
    502: "A site gave no answer.",
    503: "Not now; try again.",
    504: "A site gave no answer in time.",
    507: "The spool is full; try again later.",
}
