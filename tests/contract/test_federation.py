"""Several sites in one answer: merged, paged, and honest about the ones that are missing (contract section 7)."""

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fixtures.roles import Service, StartRole, eventually, free_port
from tests.fixtures.sse import open_stream
from tests.fixtures.stubs import Trickled, stubs
from tests.fixtures.timing import in_time
from tests.make import event_dict, life

pytestmark = pytest.mark.one_lane

Fabs = tuple[Service, list[Service]]


@pytest.fixture
def fabs(make_role: StartRole, new_database: Callable[[], str]) -> Fabs:
    """Central over three sites with seven jobs each, interleaved in time, some at the same moment."""
    made = [make_role("local", FABMON_DATABASE_URL=new_database(), FABMON_SITE_ID=f"fab{n}") for n in range(3)]
    with ThreadPoolExecutor(3) as threads:
        sites = list(threads.map(Service.start, made))
    for n, site in enumerate(sites):
        events = [each for k in range(6) for each in life(begin=60 * k + (n * 10 if k % 2 else 0), site=f"fab{n}")]
        site.send([*events, event_dict("error", at=30 * n, site=f"fab{n}", app_name="etch")])
    text = ",".join(f"fab{n}={site.url}" for n, site in enumerate(sites))
    return make_role("central", FABMON_SITES=text).start(), sites


def test_several_sites_are_merged_in_order_and_paged_with_one_cursor(fabs: Fabs) -> None:
    central, sites = fabs
    for order in ("-started_at", "started_at", "ended_at", "-duration_s", "status", "-app_name", "cpu_user_s"):
        whole = central.get(f"/v1/jobs?site=*&order={order}").json
        assert (whole["count"], whole["complete"], whole["next_cursor"]) == (21, True, None), order
        assert {name: site["count"] for name, site in whole["sites"].items()} == {"fab0": 7, "fab1": 7, "fab2": 7}
        alone = [item["job_id"] for site in sites for item in site.get(f"/v1/jobs?order={order}").json["items"]]
        assert sorted(item["job_id"] for item in whole["items"]) == sorted(alone)
        for n in range(3):
            mine = [item for item in whole["items"] if item["site_id"] == f"fab{n}"]
            assert mine == sites[n].get(f"/v1/jobs?order={order}").json["items"], order
        assert central.all_items(f"/v1/jobs?site=*&order={order}&limit=4") == whole["items"], order


def test_filters_counts_and_a_list_of_sites(fabs: Fabs) -> None:
    central, _ = fabs
    two = central.get("/v1/jobs?site=fab0,fab2&status=failed&count=true").json
    assert ({item["site_id"] for item in two["items"]}, two["total"], two["total_exact"]) == ({"fab0", "fab2"}, 2, True)
    assert central.get("/v1/subjobs?site=*").json["items"] == []
    for query, name in (("colour=red", "colour"), ("limit=0", "limit"), ("cursor=x", "cursor"), ("order=x", "order")):
        reply = central.get(f"/v1/jobs?site=*&{query}")
        assert (reply.status, reply.json["parameter"]) == (422, name)
    for query, name in (("require=some", "require"), ("deadline=0", "deadline"), ("deadline=x", "deadline")):
        assert central.get(f"/v1/jobs?site=*&{query}").json["parameter"] == name
    assert central.get("/v1/jobs?site=fab0,fab9").status == 404
    assert central.get("/v1/jobs?site=*&format=csv").json["parameter"] == "format"


def test_one_run_is_found_wherever_it_is_and_figures_name_their_site(fabs: Fabs) -> None:
    central, sites = fabs
    run = sites[1].get("/v1/jobs?limit=1").json["items"][0]["job_id"]
    assert central.get(f"/v1/jobs/{run}?site=*").json["site_id"] == "fab1"
    assert central.get(f"/v1/jobs/{run}/events?site=fab1").json["count"] > 0
    assert central.get(f"/v1/jobs/{uuid.uuid4()}?site=*").status == 404
    apps = central.get("/v1/apps?site=*&from=2026-01-01").json["items"]
    assert {(app["site_id"], app["app_name"]) for app in apps} >= {("fab0", "recipe-runner"), ("fab2", "etch")} or apps
    stats = central.get("/v1/stats?site=*&from=2026-10-19&to=2026-10-20&bucket=1d").json
    assert {(row["site_id"], row["count"]) for row in stats["items"]} == {("fab0", 7), ("fab1", 7), ("fab2", 7)}


def test_an_export_of_one_site_is_passed_on(fabs: Fabs) -> None:
    central, sites = fabs
    direct = sites[0].get("/v1/jobs?format=csv")
    through = central.get("/v1/jobs?site=fab0&format=csv")
    assert (through.body, through.headers["content-type"]) == (direct.body, direct.headers["content-type"])
    assert central.get("/v1/jobs?site=fab0&format=csv&colour=red").status == 422


def test_missing_sites_are_listed_with_the_reason_and_nobody_waits_longer_than_the_deadline(
    fabs: Fabs, make_role: StartRole
) -> None:
    _, sites = fabs
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    answers: dict[str, bytes | Trickled] = {
        "hangs": b"",
        "nonsense": head + b"content-length: 5\r\n\r\nhello",
        "another": head + b'content-length: 13\r\n\r\n{"items":"x"}',
        "rows": head + b'content-length: 24\r\n\r\n{"items":[{"job_id":1}]}',
        "endless": head + b"transfer-encoding: chunked\r\n\r\n" + b"5\r\n     \r\n" * 50,
        "fails": b"HTTP/1.1 503 x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        "trickles": Trickled(head + b"content-length: 1000\r\n\r\n", b" ", every_seconds=0.1),
        "heads": Trickled(head, b"x", every_seconds=0.1),
        "moved": b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    }
    expected = {
        "hangs": "timeout",
        "nonsense": "bad_answer",
        "another": "bad_answer",
        "rows": "bad_answer",
        "endless": "timeout",
        "trickles": "timeout",
        "heads": "timeout",
        "fails": "http_503",
        "moved": "http_302",
        "refuses": "refused",
        "fab0": "ok",
    }
    with stubs(answers) as urls:
        urls |= {"refuses": f"http://127.0.0.1:{free_port()}", "fab0": sites[0].url}
        central = make_role("central", FABMON_SITES=",".join(f"{name}={url}" for name, url in urls.items())).start()
        central.get("/v1/jobs?site=fab0")  # warm

        def ask_all() -> float:
            begun = time.monotonic()
            reply = central.get("/v1/jobs?site=*&deadline=1.5")
            took = time.monotonic() - begun
            assert took > 1.4
            assert {name: site["status"] for name, site in reply.json["sites"].items()} == expected
            got = (reply.json["complete"], reply.json["count"], reply.headers["cache-control"])
            assert got == (False, 7, "no-store")
            assert all("error" in site for site in reply.json["sites"].values() if site["status"] != "ok")
            return took

        in_time(1.5 + 0.25, ask_all)
        strict = central.get("/v1/jobs?site=*&deadline=0.5&require=all")
        assert (strict.status, strict.json["code"]) == (502, "site_failed")
        late = central.get("/v1/jobs?site=hangs,endless&deadline=0.3")
        assert (late.status, late.json["code"]) == (504, "site_too_slow")


def test_a_site_that_comes_back_goes_on_where_the_page_is(fabs: Fabs) -> None:
    central, sites = fabs
    port_holder = sites[2]
    first = central.get("/v1/jobs?site=*&limit=9").json
    port_holder.stop()
    second = central.get(f"/v1/jobs?site=*&limit=5&cursor={first['next_cursor']}").json
    assert (second["complete"], second["sites"]["fab2"]["status"]) == (False, "refused")
    port_holder.start()
    third = central.get(f"/v1/jobs?site=*&cursor={second['next_cursor']}").json
    seen = [item["job_id"] for page in (first, second, third) for item in page["items"]]
    assert len(set(seen)) == len(seen)
    missed = {item["job_id"] for item in central.get("/v1/jobs?site=*").json["items"]} - set(seen)
    # Only what lay on the page that said so is missing, and only fab2's.
    at = [item["started_at"] for item in second["items"]]
    lost = [item for item in port_holder.get("/v1/jobs").json["items"] if item["job_id"] in missed]
    assert len(lost) == len(missed)
    assert all(at[-1] <= item["started_at"] <= first["items"][-1]["started_at"] for item in lost)


def test_the_streams_of_all_sites_come_as_one_and_resume_at_each(fabs: Fabs) -> None:
    central, sites = fabs
    with open_stream(central, "?site=*&kind=started") as stream:
        for n, site in enumerate(sites):
            site.send([event_dict(site=f"fab{n}"), event_dict("error", site=f"fab{n}")])
        assert {each["site_id"] for each in stream.take(3)} == {"fab0", "fab1", "fab2"}
        last = stream.last_id
    for n, site in enumerate(sites):
        site.send([event_dict(site=f"fab{n}", app_name="meanwhile")])
    with open_stream(central, "?site=*&kind=started", last_event_id=last) as stream:
        again = stream.take(3)
        assert {(each["site_id"], each["app_name"]) for each in again} == {(f"fab{n}", "meanwhile") for n in range(3)}


def test_a_reader_that_leaves_before_the_first_event_misses_none(fabs: Fabs) -> None:
    central, sites = fabs
    with open_stream(central, "?site=*") as stream:
        *_, place = (stream.line() for _ in range(4))
    assert place.count(b":") == 4  # after id, and each site with its place
    for n, site in enumerate(sites):
        site.send([event_dict(site=f"fab{n}")])
    with open_stream(central, "?site=*", last_event_id=place[4:].strip().decode()) as stream:
        assert {each["site_id"] for each in stream.take(3)} == {"fab0", "fab1", "fab2"}


def test_a_site_that_goes_and_comes_back_is_said_and_misses_nothing(fabs: Fabs) -> None:
    central, sites = fabs
    with open_stream(central, "?site=fab0,fab1") as stream:
        sites[1].send([event_dict(site="fab1", app_name="before")])
        assert stream.next()["app_name"] == "before"
        sites[1].stop()
        down = stream.next()
        assert (stream.event, down["site"], "error" in down) == ("site_down", "fab1", True)
        sites[1].start()
        sites[1].send([event_dict(site="fab1", app_name="after")])
        seen = []
        for _ in range(2):
            each = stream.next()
            seen.append((stream.event, each.get("app_name")))
        assert seen == [("site_up", None), ("", "after")]


def test_readers_of_the_stream_leave_a_site_free_for_questions(local: Service, central: Service) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(open_stream(central, "?site=fab1")) for _ in range(20)]
        assert central.get("/v1/jobs?site=fab1&deadline=2").status == 200
        assert central.get("/v1/healthz").json["sites"]["fab1"]["status"] == "ok"
        sent = event_dict()
        local.send([sent])
        assert [stream.next().get("idempotency_key") for stream in streams] == [sent["idempotency_key"]] * 20


def test_a_site_whose_event_has_no_end_is_left(make_role: StartRole) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000000000\r\n\r\n: \n\n"
    with stubs({"fab1": head + b"x" * (9 << 20)}) as urls:
        central = make_role("central", FABMON_SITES=f"fab1={urls['fab1']}").start("/v1/healthz")
        with open_stream(central, "?site=fab1") as stream:
            assert "sends no end" in stream.next()["error"]


def test_a_merged_stream_names_what_is_wrong(fabs: Fabs) -> None:
    central, _ = fabs
    for query, name in (
        ("", "site"),
        ("?site=*&colour=red", "colour"),
        ("?site=*&last_event_id=fab1", "last_event_id"),
        ("?site=*&site=fab1", "site"),
    ):
        reply = central.get(f"/v1/stream{query}")
        assert (reply.status, reply.json["parameter"]) == (422, name)
    assert central.get("/v1/stream?site=fab9").status == 404
    assert central.ask("HEAD", "/v1/stream?site=*").headers["content-type"].startswith("text/event-stream")


def test_a_sites_file_is_read_again_when_it_changes(fabs: Fabs, make_role: StartRole, data_dir: Path) -> None:
    _, sites = fabs
    file = data_dir / "sites.toml"
    file.write_text(f'[fab0]\nurl = "{sites[0].url}"\n')
    central = make_role("central", FABMON_SITES=str(file)).start()
    assert [site["id"] for site in central.get("/v1/sites").json["sites"]] == ["fab0"]
    file.write_text(f'[fab0]\nurl = "{sites[0].url}"\n[fab1]\nurl = "{sites[1].url}"\n')
    eventually(lambda: central.get("/v1/sites").json["count"] == 2)
    assert central.get("/v1/jobs?site=*").json["count"] == 14
    file.write_text("[fab0\n")
    eventually(lambda: "sites.unusable" in central.log)
    assert central.get("/v1/sites").json["count"] == 2
    file.write_text(f'[fab1]\nurl = "{sites[1].url}"\n')
    eventually(lambda: central.get("/v1/sites").json["count"] == 1)
    assert central.get("/v1/jobs?site=fab0").status == 404
    assert central.stop() == 0
