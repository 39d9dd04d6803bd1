"""Sites that send a byte a second, of their head, their body or their stream: nobody waits for them past the deadline."""

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fabmon.errors import PeerUnavailable
from fabmon.peer.client import open_peer
from fabmon.stream.sites import site_blocks
from tests.fixtures.roles import Reply, Service, StartRole
from tests.fixtures.sse import open_stream
from tests.fixtures.stubs import Trickled, stubs
from tests.make import event_dict, life

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000000000\r\n\r\n"
DEADLINE = 2.3


@pytest.mark.one_lane
def test_a_site_that_sends_a_byte_a_second_is_missing_in_time(local: Service, make_role: StartRole) -> None:
    run = event_dict()["entity"]["id"]
    local.send(life(run))
    answers: dict[str, bytes | Trickled] = {
        "heads": Trickled(b"", b"HTTP/1.1 200 OK\r\nx: " + b"x" * 1000),
        "bodies": Trickled(HEAD + b"\r\n", b" "),
        "silent": HEAD + b"\r\n",
        "refuses": b"HTTP/1.1 401 x\r\ncontent-type: application/problem+json\r\ncontent-length: 2\r\n\r\n{}",
    }
    with stubs(answers) as urls, ThreadPoolExecutor(8) as threads:
        text = ",".join(f"{name}={url}" for name, url in {"fab1": local.url, **urls}.items())
        central = make_role("central", FABMON_SITES=text).start("/v1/sites")
        central.get("/v1/jobs?site=fab1")  # warm

        def timed(path: str) -> tuple[Reply, float]:
            begun = time.monotonic()
            return central.get(path), time.monotonic() - begun

        asked = {
            "list": f"/v1/jobs?site=*&deadline={DEADLINE}",
            "run": f"/v1/jobs/{run}?site=*&deadline={DEADLINE}",
            "stats": f"/v1/stats?site=*&deadline={DEADLINE}",
            "one": f"/v1/jobs?site=bodies&deadline={DEADLINE}",
            "export of heads": f"/v1/jobs?site=heads&format=csv&deadline={DEADLINE}",
            "export of silent": f"/v1/jobs?site=silent&format=csv&deadline={DEADLINE}",
            "export of refuses": f"/v1/jobs?site=refuses&format=csv&deadline={DEADLINE}",
            "health": "/v1/healthz",
        }
        found = dict(zip(asked, threads.map(timed, asked.values()), strict=True))
        replies = {name: reply for name, (reply, _) in found.items()}
        assert {name: took for name, (_, took) in found.items() if took > DEADLINE + 0.25} == {}
        late = {"heads": "timeout", "bodies": "timeout", "silent": "timeout", "refuses": "http_401", "fab1": "ok"}
        for name in ("list", "stats"):
            assert {site: said["status"] for site, said in replies[name].json["sites"].items()} == late, name
        assert [item["job_id"] for item in replies["list"].json["items"]] == [run]
        assert replies["run"].json["job_id"] == run
        for name in ("one", "export of heads", "export of silent"):
            assert (replies[name].status, replies[name].json["code"]) == (504, "site_too_slow"), name
        assert (replies["export of refuses"].status, replies["export of refuses"].json["code"]) == (502, "site_failed")
        health = {site: said["status"] for site, said in replies["health"].json["sites"].items()}
        assert health == dict.fromkeys(late, "degraded") | {"fab1": "ok"}


@pytest.mark.one_lane
def test_an_export_that_comes_byte_by_byte_is_passed_on_so_and_holds_nobody_up(
    local: Service, make_role: StartRole
) -> None:
    with stubs({"bodies": Trickled(HEAD + b"\r\n", b"abc", 0.1)}) as urls:
        central = make_role("central", FABMON_SITES=f"fab1={local.url},bodies={urls['bodies']}").start("/v1/sites")
        with socket.create_connection(("127.0.0.1", central.port), 5) as reader:
            reader.sendall(b"GET /v1/jobs?site=bodies&format=csv&deadline=0.3 HTTP/1.1\r\nhost: x\r\n\r\n")
            came = b""
            while not came.endswith(b"a\r\n1\r\nb\r\n1\r\nc\r\n1\r\na\r\n"):  # past the deadline, in chunks of a byte
                came += reader.recv(4096)
            assert came.startswith(b"HTTP/1.1 200")
            assert central.get("/v1/jobs?site=fab1&format=csv&deadline=1").status == 200


@pytest.mark.one_lane
def test_a_site_that_never_begins_its_stream_is_down_and_the_others_are_followed(
    local: Service, make_role: StartRole
) -> None:
    answers: dict[str, bytes | Trickled] = {
        "heads": Trickled(b"", b"HTTP/1.1 200 OK\r\nx: " + b"x" * 1000, 0.2),
        "lines": Trickled(STREAM, b"x", 0.2),
        "silent": STREAM,
    }
    with stubs(answers) as urls:
        text = ",".join(f"{name}={url}" for name, url in {"fab1": local.url, **urls}.items())
        central = make_role("central", FABMON_SITES=text).start("/v1/sites")
        begun = time.monotonic()
        with open_stream(central, "?site=*") as stream:
            local.send([sent := event_dict()])
            said = [(each := stream.next()).get("site") or each["idempotency_key"] for _ in range(4)]
            assert sorted(said) == sorted(["heads", "lines", "silent", sent["idempotency_key"]])
            assert time.monotonic() - begun < 3.5


@pytest.mark.one_lane
def test_a_stream_that_stops_in_the_middle_of_a_line_holds_up_no_other(local: Service, make_role: StartRole) -> None:
    with stubs({"lines": Trickled(STREAM + b": x\nid: 7-1\n\n", b"x", 0.1)}) as urls:
        central = make_role("central", FABMON_SITES=f"fab1={local.url},lines={urls['lines']}").start("/v1/sites")
        with open_stream(central, "?site=*") as stream:
            for _ in range(5):
                time.sleep(0.1)
                local.send([sent := event_dict()])
                assert stream.next()["idempotency_key"] == sent["idempotency_key"]
            assert "lines:7-1" in stream.last_id


async def test_a_stream_is_left_when_no_whole_event_came_for_long_though_bytes_do() -> None:
    loop = asyncio.get_running_loop()
    with stubs({"lines": Trickled(STREAM + b"id: 7-1\n\n", b"x", 0.1)}) as urls:
        async with open_peer(urls["lines"]) as peer:
            blocks = site_blocks(peer, [], silence_seconds=0.5)
            assert await anext(blocks) == b"id: 7-1"
            begun = loop.time()
            with pytest.raises(PeerUnavailable, match="no whole event"):
                await anext(blocks)
            assert 0.4 < loop.time() - begun < 1
