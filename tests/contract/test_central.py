"""Central over real sites, and over sites that misbehave."""

import pytest

from tests.fixtures.roles import Service, StartRole, free_port
from tests.fixtures.stubs import stubs
from tests.make import event_dict, life

pytestmark = pytest.mark.one_lane


def test_every_parameter_reaches_the_site_and_its_answer_comes_back_as_it_is(local: Service, central: Service) -> None:
    local.send([*life(), event_dict("error", app_name="etch")])
    for query in (
        "",
        "&status=failed",
        "&app_name=ETCH&limit=1",
        "&order=started_at",
        "&from=2026-01-01&to=2027-01-01",
    ):
        direct = local.get("/v1/jobs?" + query.lstrip("&")).json
        through = central.get("/v1/jobs?site=fab1" + query).json
        assert through["items"] == direct["items"], query
    assert central.get("/v1/subjobs?site=fab1").json["items"] == []
    refused = central.get("/v1/jobs?site=fab1&colour=red")
    assert (refused.status, refused.json["parameter"]) == (422, "colour")


def test_the_site_must_be_named_and_known(central: Service) -> None:
    missing, unknown = central.get("/v1/jobs"), central.get("/v1/jobs?site=fab9")
    assert (missing.status, missing.json["parameter"]) == (422, "site")
    assert (unknown.status, unknown.json["code"]) == (404, "unknown_site")


def test_sites_and_health_as_the_seed_shows_them(local: Service, make_role: StartRole) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    central = make_role("central", FABMON_SITES=f"fab1={local.url},fab2={away}").start()
    assert central.get("/v1/sites").json == {
        "sites": [{"id": "fab1", "endpoint": local.url}, {"id": "fab2", "endpoint": away}],
        "count": 2,
    }
    health = central.get("/v1/healthz").json
    assert (health["status"], health["service"], health["version"]) == ("ok", "central-api", "2.0.0")
    assert health["sites"]["fab1"] == {"status": "ok", "endpoint": local.url}
    assert health["sites"]["fab2"]["status"] == "degraded"
    assert "error" in health["sites"]["fab2"]


def test_a_site_that_gives_no_answer_is_502_or_504_with_the_reason(make_role: StartRole) -> None:
    refusing = f"http://127.0.0.1:{free_port()}"
    answers = {
        "hangs": b"",
        "nonsense": b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\r\nhello",
        "breaks": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{",
        "moved": b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        "fails": b"HTTP/1.1 500 x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    }
    with stubs(answers) as urls:
        sites = ",".join(f"{name}={url}" for name, url in {**urls, "refuses": refusing}.items())
        central = make_role("central", FABMON_SITES=sites, FABMON_SITE_DEADLINE_S="1").start()
        for name in [*answers, "refuses"]:
            status = 504 if name in ("hangs", "breaks") else 502
            reply = central.get(f"/v1/jobs?site={name}", timeout=20)
            assert (reply.status, reply.json["code"].startswith("site_")) == (status, True), name
            assert name in reply.json["detail"]
        health = central.get("/v1/healthz", timeout=20).json["sites"]
        assert {site["status"] for site in health.values()} == {"degraded"}
