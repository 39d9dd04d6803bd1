"""docs/api.md: the API of the three roles, from the /openapi.json that each of them answers."""

import asyncio
import json
import tempfile
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from starlette.types import Message

from fabmon.httpd.access import scope_of
from fabmon.httpd.role import Role
from fabmon.roles.central import open_central
from fabmon.roles.local import open_local
from fabmon.roles.sidecar import open_sidecar
from fabmon.settings import CentralSettings, LocalSettings, SidecarSettings

_HEAD: Final = """# API

Made by `make docs` from what each role answers at `/openapi.json`: that is the same for programs. Every error is a problem
document with a stable `code` ([problems](problems.md)); who may ask what: [security](security.md).

| route | roles | scope | what |
|---|---|---|---|
"""
_NOWHERE: Final = "postgresql://127.0.0.1:1/nothing"  # local describes itself without its database


def api_page() -> str:
    """The page as it should be."""
    return _page(asyncio.run(_documents()))


async def _documents() -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        local = LocalSettings(data_dir=directory, database_url=_NOWHERE, database_wait_s=0.01)
        roles: dict[str, AbstractAsyncContextManager[Role]] = {
            "sidecar": open_sidecar(SidecarSettings(data_dir=directory, local_url="http://127.0.0.1:1")),
            "local": open_local(local),
            "central": open_central(CentralSettings(sites="fab1=http://127.0.0.1:1")),
        }
        return {name: await _described(opened) for name, opened in roles.items()}


async def _described(opened: AbstractAsyncContextManager[Role]) -> dict[str, Any]:
    body = b""

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        nonlocal body
        body += message.get("body", b"")

    scope = {"type": "http", "method": "GET", "path": "/openapi.json", "headers": [], "query_string": b""}
    async with opened as role:
        await role.app(scope, receive, send)
    document: dict[str, Any] = json.loads(body)
    return document


def _page(documents: Mapping[str, Mapping[str, Any]]) -> str:
    routes: dict[tuple[str, str], dict[str, Any]] = {}
    for role, document in documents.items():
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                routes.setdefault((path, method.upper()), {})[role] = operation
    table, sections = [], []
    for (path, method), by_role in sorted(routes.items()):
        summary = next(iter(by_role.values()))["summary"]
        scope = scope_of(path) or "none"
        table.append(f"| `{method} {path}` | {', '.join(by_role)} | {scope} | {summary} |\n")
        sections.append(_section(path, method, by_role))
    schemas: dict[str, Any] = {}
    for document in documents.values():
        schemas |= document["components"]["schemas"]
    types = "".join(_type_section(name, schemas[name]) for name in sorted(schemas))
    return _HEAD + "".join(table) + "\n## Routes\n" + "".join(sections) + "\n## Types\n" + types


def _section(path: str, method: str, by_role: Mapping[str, Mapping[str, Any]]) -> str:
    # Central has the parameters of local and its own; those are said to be.
    roles = list(by_role)
    found: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for role, operation in by_role.items():
        for parameter in operation.get("parameters", []):
            found.setdefault(parameter["name"], (parameter, []))[1].append(role)
    operation = by_role[roles[0]]
    lines = [f"\n### {method} {path}\n\n{operation['summary']}\n"]
    if body := operation.get("requestBody"):
        lines.append(f"\nBody: {_shown(body['content']['application/json']['schema'])}.\n")
    if found:
        lines.append("\n| parameter | type | meaning |\n|---|---|---|\n")
    for name, (parameter, has) in found.items():
        only = f" ({', '.join(has)} only)" if has != roles else ""
        needed = "; required" if parameter["required"] and parameter["in"] == "query" else ""
        where = "in the path" if parameter["in"] == "path" else _shown(parameter["schema"])
        lines.append(f"| `{name}` | {where}{needed} | {_cell(parameter['description'])}{only} |\n")
    statuses: dict[str, str] = {}
    for operation in by_role.values():
        for status, answer in operation["responses"].items():
            statuses.setdefault(status, _answer(answer))
    lines.append("\nAnswers: " + "; ".join(f"{status} {text}" for status, text in sorted(statuses.items())) + ".\n")
    return "".join(lines)


def _answer(answer: Mapping[str, Any]) -> str:
    content = {kind: part for kind, part in answer.get("content", {}).items() if "problem" not in kind}
    if not content:
        return str(answer["description"]).rstrip(".")
    kinds = ", ".join(kind for kind in content if kind != "application/json")
    shown = _shown(next(iter(content.values()))["schema"])
    return shown + (f" ({kinds})" if len(content) == 1 and kinds else f" (also {kinds})" if kinds else "")


def _type_section(name: str, schema: Mapping[str, Any]) -> str:
    lines = [f"\n### {name}\n\n"]
    if text := schema.get("description"):
        lines.append(" ".join(str(text).split()) + "\n\n")
    lines.append("| field | type |\n|---|---|\n")
    required = schema.get("required", [])
    for field, kind in schema.get("properties", {}).items():
        lines.append(f"| `{field}` | {_shown(kind)}{'' if field in required else ', may be left out'} |\n")
    return "".join(lines)


def _shown(schema: Mapping[str, Any]) -> str:
    """A type in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_shown(part) for part in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_shown(schema.get('items', {}))}"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"object of {_shown(inner)}" if isinstance(inner, dict) and inner else "object"
    text = str(schema.get("format") or schema.get("type") or "anything")
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema]
    if pattern := schema.get("pattern"):
        bounds.append(f"`{_cell(pattern)}`")
    return f"{text} {', '.join(bounds)}".strip()


_BOUNDS: Final = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "minLength": "length ≥",
    "maxLength": "length ≤",
}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
