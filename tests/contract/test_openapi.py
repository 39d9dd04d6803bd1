"""/openapi.json describes what is served, and what it describes is served."""

import msgspec
import pytest

from fabmon.store.selection import SHOWN
from fabmon.wire.job import Job, RunEvent, Subjob
from tests.fixtures.roles import Service
from tests.make import life

pytestmark = pytest.mark.one_lane


def test_each_role_describes_its_routes_and_none_that_it_lacks(
    sidecar: Service, local: Service, central: Service
) -> None:
    for role in (sidecar, local, central):
        document = role.get("/openapi.json").json
        assert (document["openapi"], document["info"]["version"]) == ("3.1.0", "2.0.0")
        for path, operations in document["paths"].items():
            for method in operations:
                if path in ("/v1/stream", "/metrics"):
                    continue
                reply = role.ask(method.upper(), path.replace("{id}", "x"), b"{}" if method == "post" else None)
                assert (reply.status, reply.json.get("code")) != (404, "not_found"), path
                assert reply.status != 405, path
    assert "/v1/sites" in central.get("/openapi.json").json["paths"]
    assert "/v1/jobs" not in sidecar.get("/openapi.json").json["paths"]


def test_every_parameter_that_is_described_is_known_and_others_are_not(local: Service, central: Service) -> None:
    for role, own in ((local, ""), (central, "&site=fab1")):
        for path, operations in role.get("/openapi.json").json["paths"].items():
            for param in operations.get("get", {}).get("parameters", []):
                if param["in"] == "path" or path == "/v1/stream" or param["name"] == "site":
                    continue
                asked = f"{path.replace('{id}', '00000000-0000-0000-0000-000000000001')}?{param['name']}=%01{own}"
                reply = role.get(asked)
                text = "" if reply.headers["content-type"].startswith("text/") else reply.json.get("detail", "")
                assert "unknown parameter" not in text, (path, param["name"])


def test_schemas_hold_every_key_of_an_answer(local: Service) -> None:
    local.send(life())
    items = local.get("/v1/jobs").json["items"]
    assert set(msgspec.structs.asdict(msgspec.convert(items[0], Job))) == set(items[0]) == set(SHOWN["job"])
    assert set(Subjob.__struct_fields__) == set(SHOWN["subjob"])
    event = local.get(f"/v1/jobs/{items[0]['job_id']}/events").json["items"][0]
    assert set(RunEvent.__struct_fields__) == set(event)
    schemas = local.get("/openapi.json").json["components"]["schemas"]
    assert set(schemas["Job"]["properties"]) == set(items[0])
    assert schemas["Event"]["properties"]["site_id"]["pattern"] == "^[A-Za-z0-9._-]{1,64}$"
