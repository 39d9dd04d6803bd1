"""Every route of every role, asked with every kind of token (contract section 9)."""

import uuid
from pathlib import Path

import pytest

from fabmon.clock import now
from fabmon.httpd.tokens import Token, hash_of, new_secret, read_tokens, write_tokens
from tests.fixtures.roles import Service, StartRole
from tests.fixtures.tokens import add_token, bearer

pytestmark = pytest.mark.one_lane

ELSEWHERE = {"x-forwarded-for": "192.0.2.7"}  # not from loopback, where health needs no token
ENDLESS = "/v1/stream"  # asked with a parameter that it refuses, so that it ends


@pytest.mark.parametrize("role", ["sidecar", "local", "central"])
def test_every_route_opens_for_its_scope_and_for_nothing_else(
    role: str, make_role: StartRole, data_dir: Path, database_url: str
) -> None:
    file = data_dir / "tokens"
    headers = {scope: bearer(add_token(file, scope, scope)) for scope in ("ingest", "read", "admin")}
    headers["expired"] = bearer(_expired(file))
    headers["unknown"] = bearer(new_secret())
    headers["none"] = {}
    database = {"FABMON_DATABASE_URL": database_url} if role == "local" else {}
    service = make_role(role, FABMON_TOKENS_FILE=str(file), **database).start()
    described = service.ask("GET", "/openapi.json", headers=headers["read"]).json["paths"]
    asked = 0
    for path, operations in [*described.items(), ("/v1/nothing", {"get": None})]:
        for method in operations:
            asked += 1
            for who, header in headers.items():
                status = _ask(service, method, path, {**header, **ELSEWHERE})
                opens = {"ingest", "admin"} if _is_door(path) else {"read", "admin"}
                if path in ("/livez", "/readyz") or who in opens:
                    assert status not in (401, 403, 429), (role, method, path, who, status)
                elif who in ("ingest", "read"):
                    assert status in (403, 429), (role, method, path, who, status)
                else:
                    assert status in (401, 429), (role, method, path, who, status)
    assert asked > 8


def _ask(service: Service, method: str, path: str, headers: dict[str, str]) -> int:
    real = path.replace("{id}", str(uuid.uuid4())).replace("{app}/{key}/{state}", "app/key/no-such-state")
    if path == ENDLESS:
        real += "?no_such_parameter=1"
    return service.ask(method.upper(), real, b"{" if method == "post" else None, headers).status


def _is_door(path: str) -> bool:
    return path.startswith(("/v1/ingest/", "/v1/ping/", "/api/v1/lineage"))


def _expired(file: Path) -> str:
    secret = new_secret()
    gone = Token(name="gone", hash=hash_of(secret.encode()), scopes=("admin",), expires=now())
    write_tokens(file, [*read_tokens(file), gone])
    return secret
