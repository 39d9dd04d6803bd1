"""Contact with the site: who was heard, what is held back, and up to when the lists are complete."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from fabmon.clock import monotonic
from fabmon.ingest.contact import Contacts, keep_contacts
from fabmon.relay.contact import Speaker
from fabmon.relay.forward import Underway, forward
from fabmon.relay.upstream import Upstream
from fabmon.spool.spool import open_spool
from fabmon.store.pool import Pool
from fabmon.store.schema import open_schema
from fabmon.store.sidecars import Heard, complete_until, read_sidecars, write_contacts
from fabmon.wire.contact import AGE_HEADER, PENDING_HEADER, Contact
from fabmon.wire.event import Batch, Receipt
from tests.fixtures.roles import Service, StartRole, eventually
from tests.make import event, event_dict

A, B = str(uuid4()), str(uuid4())


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


async def until(pool: Pool) -> float:
    """How many seconds ago."""
    found = await complete_until(pool)
    assert found is not None
    return (datetime.now(UTC) - found).total_seconds()


async def test_no_known_sidecar_says_nothing(pool: Pool) -> None:
    assert await complete_until(pool) is None
    assert await read_sidecars(pool) == []


async def test_the_oldest_pending_event_of_any_sidecar_bounds_the_answers(pool: Pool) -> None:
    await write_contacts(pool, [Heard(A, monotonic(), Contact(0)), Heard(B, monotonic(), Contact(312, 600.0))])
    assert 599 < await until(pool) < 605
    await write_contacts(pool, [Heard(B, monotonic(), Contact(0))])
    assert await until(pool) < 5
    states = {str(item["id"]): (item["state"], item["pending"]) for item in await read_sidecars(pool)}
    assert states == {A: ("ok", 0), B: ("ok", 0)}


async def test_a_silent_sidecar_is_assumed_to_hold_back_since_its_last_contact(pool: Pool) -> None:
    await write_contacts(pool, [Heard(A, monotonic() - 100, Contact(0)), Heard(B, monotonic(), Contact(0))])
    assert 99 < await until(pool) < 105
    silent = next(item for item in await read_sidecars(pool) if str(item["id"]) == A)
    assert (silent["state"], silent["holds_back_since"] == silent["last_contact"]) == ("silent", True)
    # An older word that another local heard does not go before a newer one.
    await write_contacts(pool, [Heard(B, monotonic() - 500, Contact(9, 1000.0))])
    assert 99 < await until(pool) < 105
    await write_contacts(pool, [Heard(A, monotonic(), Contact(0, stopped=True))])
    assert await until(pool) < 5


async def test_one_that_stopped_and_speaks_again_is_back_though_its_first_word_is_dated_before(pool: Pool) -> None:
    """A first word knows no time of the site's, and is dated two seconds back."""
    for word in (Contact(0), Contact(0, stopped=True)):
        await write_contacts(pool, [Heard(A, monotonic(), word)])
    await write_contacts(pool, [Heard(A, monotonic() - 2, Contact(3, 60.0))])
    [item] = await read_sidecars(pool)
    assert (item["state"], item["pending"], 61 < await until(pool) < 66) == ("holding", 3, True)
    await write_contacts(pool, [Heard(A, monotonic() - 1, Contact(0))])
    assert [each["state"] for each in await read_sidecars(pool)] == ["holding"]  # older than what is known
    await write_contacts(pool, [Heard(A, monotonic(), Contact(0))])
    assert [each["state"] for each in await read_sidecars(pool)] == ["ok"]


async def test_one_that_stopped_with_events_holds_them_back(pool: Pool) -> None:
    await write_contacts(pool, [Heard(A, monotonic(), Contact(3, 50.0, site_id="fab1", host="etch-07", stopped=True))])
    assert 49 < await until(pool) < 55
    [item] = await read_sidecars(pool)
    assert (item["state"], item["site_id"], item["host"], item["pending"]) == ("holding", "fab1", "etch-07", 3)


async def test_the_spool_of_a_local_is_known_as_a_sidecar_is_while_it_holds_events(pool: Pool, tmp_path: Path) -> None:
    async def eventually_seen(state: str, pending: int) -> None:
        async with asyncio.timeout(30):
            while [(each["state"], each["pending"]) for each in await read_sidecars(pool)] != [(state, pending)]:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.05)

    async with (
        open_schema(pool) as schema,
        open_spool(tmp_path / "spool", 1 << 20) as spool,
        keep_contacts(pool, schema, Contacts(), spool, "fab1"),
    ):
        await asyncio.sleep(1.3)
        assert await read_sidecars(pool) == []  # one that never held anything is nobody's concern
        await spool.append([b'{"n":1}', b'{"n":2}'])
        await asyncio.sleep(0.5)
        await eventually_seen("holding", 2)
        assert 0.4 < await until(pool) < 30
        await spool.acknowledge(2)
        await eventually_seen("stopped", 0)
        asked_at = datetime.now(UTC)
        assert (await complete_until(pool) or asked_at) > asked_at


async def test_events_under_way_are_held_back_too(tmp_path: Path) -> None:
    answered = asyncio.Event()

    async def send(batch: Batch) -> Receipt:
        await answered.wait()
        return Receipt(stored=len(batch.raws))

    async with open_spool(tmp_path, 1 << 20) as spool:
        underway = Underway()
        speaker = Speaker(spool, underway, "fab1")
        sink = forward(send, spool, Upstream("site"), 60.0, underway, spool_when_busy=True)
        one, two = (asyncio.ensure_future(sink(Batch([event()] * count, [b"{}"] * count))) for count in (1, 2))
        await asyncio.sleep(0.2)
        word = speaker.word()
        assert (word.pending, 0.1 < (word.oldest_pending_age_s or 0) < 5, word.stopped) == (3, True, False)
        # Of a batch's own events the site knows when it has heard what goes with it.
        assert speaker.headers(3)[PENDING_HEADER] == "0"
        assert AGE_HEADER not in speaker.headers(3)
        assert (speaker.headers(2)[PENDING_HEADER], AGE_HEADER in speaker.headers(2)) == ("1", True)
        answered.set()
        assert [(await each).stored for each in (one, two)] == [1, 2]
        assert (speaker.word(last=True).pending, speaker.word(last=True).stopped) == (0, True)


def test_a_sidecar_is_known_to_its_site(make_role: StartRole, local: Service) -> None:
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url, FABMON_SITE_ID="fab1").start()
    id = sidecar.get("/v1/healthz").json["spool"]["id"]
    eventually(lambda: local.row("/v1/sidecars", "id", id))
    assert sidecar.send([event_dict()]).json["forwarded"] == 1
    eventually(lambda: (local.row("/v1/sidecars", "id", id) or {}).get("host"))
    answer = local.get("/v1/sidecars").json
    assert (answer["count"], answer["items"][0]["state"], answer["items"][0]["site_id"]) == (1, "ok", "fab1")
    assert datetime.fromisoformat(answer["complete_until"]) > ago(15)

    local.kill()
    sidecar.send([event_dict() for _ in range(5)])
    local.start()
    eventually(lambda: sidecar.get("/v1/healthz").json["spool_count"] == 0)
    # It tells at once that it holds nothing any more.
    eventually(lambda: (local.row("/v1/sidecars", "id", id) or {}).get("pending") == 0)
    assert sidecar.stop() == 0
    eventually(lambda: (local.row("/v1/sidecars", "id", id) or {}).get("state") == "stopped")
    assert sidecar.start().get("/v1/healthz").json["spool"]["id"] == id


def test_every_list_says_up_to_when_it_is_complete(local: Service) -> None:
    job, subjob = event_dict(), event_dict(parent=str(uuid4()))
    assert local.send([job, subjob]).status == 200
    held = {"pending": 3, "oldest_pending_age_s": 500.0, "site_id": "fab1"}
    assert local.post(f"/v1/ingest/sidecars/{uuid4()}", held).status == 204
    eventually(lambda: local.get("/v1/sidecars").json["count"] == 1)
    time.sleep(1.1)  # it is asked once a second at most
    of_job, of_subjob = f"/v1/jobs/{job['entity']['id']}", f"/v1/subjobs/{subjob['entity']['id']}"
    lists = ["/v1/jobs", "/v1/subjobs", "/v1/apps", "/v1/stats", "/v1/sidecars"]
    lists += [f"{of_job}/events", f"{of_job}/subjobs", f"{of_subjob}/events"]
    for path in lists:
        until = datetime.fromisoformat(local.get(path).json["complete_until"])
        assert ago(520) < until < ago(480), path


def test_nonsense_about_a_sidecar_harms_nothing(local: Service) -> None:
    headers = {"x-fabmon-sidecar": "x", "x-fabmon-pending": "-1", "x-fabmon-oldest-age": "nan"}
    assert local.ask("POST", "/v1/ingest/events", event_dict(), headers).status == 200
    headers = {"x-fabmon-sidecar": str(uuid4()), "x-fabmon-pending": "1", "x-fabmon-oldest-age": "nan"}
    assert local.ask("POST", "/v1/ingest/events", event_dict(), headers).status == 200
    assert local.post(f"/v1/ingest/sidecars/{uuid4()}", {"pending": "many"}).status == 422
    assert local.post(f"/v1/ingest/sidecars/{uuid4()}", {"pending": 0, "host": "a\0b"}).status == 422
    assert local.post("/v1/ingest/sidecars/x", {"pending": 0}).status == 422
    assert local.get("/v1/sidecars").json["count"] == 0
    assert local.get("/v1/sidecars?x=1").json["code"] == "bad_parameter"
