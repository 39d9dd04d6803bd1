"""`fabmon spool` on a copied directory and beside a live sidecar: it only reads, unless it says otherwise."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from fabmon.clock import now
from fabmon.spool.dead import Letter
from fabmon.spool.disk import Disk
from fabmon.spool.spool import open_spool
from tests.fixtures.roles import Service, StartRole, eventually
from tests.make import event_bytes, event_dict

pytestmark = pytest.mark.one_lane

LIMIT = 1 << 26
V1 = Path(__file__).parents[1] / "fixtures" / "spool-v1"


def spool(*arguments: str, code: int = 0, says: str = "") -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FABMON_")}
    command = [sys.executable, "-m", "fabmon", "spool", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)
    assert done.returncode == code, done.stderr + done.stdout
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def stat(directory: Path) -> Any:
    return json.loads(spool("stat", "--dir", str(directory), "--json"))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Five events: the first delivered, the second dead, three pending."""
    asyncio.run(_fill(tmp_path / "spool"))
    return tmp_path / "spool"


async def _fill(directory: Path) -> None:
    async with open_spool(directory, LIMIT) as opened:
        await opened.append([event_bytes(business_key=f"LOT-{number}") for number in range(5)])
        records = await opened.read(2)
        await opened.acknowledge(2, [Letter(records[1], "wrong_site", "this is site fab1", 207, 2, now(), now())])


async def _fill_with_control_characters(directory: Path) -> None:
    async with open_spool(directory, LIMIT) as opened:
        await opened.append([event_bytes(business_key="Gr\u00fc\u00dfe\nFAKE\x1b[2J"), event_bytes()])
        [record, _] = await opened.read(2)
        await opened.acknowledge(1, [Letter(record, "x", "a\x1b]0;b\x07\nc", 422, 1, now(), now())])
        await opened.append([record.raw])


def test_what_a_program_sent_forges_no_line_and_stops_no_terminal(tmp_path: Path) -> None:
    asyncio.run(_fill_with_control_characters(tmp_path))
    words = [sys.executable, "-m", "fabmon", "spool"]
    for command in (["ls"], ["dead", "ls"]):
        done = subprocess.run(
            [*words, *command, "--dir", str(tmp_path)],
            capture_output=True, timeout=30, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )  # fmt: skip
        assert len(done.stdout.splitlines()) == (2 if command == ["ls"] else 1), done
        assert b"\x1b" not in done.stdout
        assert b"FAKE" in done.stdout


def test_reading_commands_change_nothing(filled: Path) -> None:
    before = files(filled)
    found = stat(filled)
    counted = {name: found[name] for name in ("accepted", "delivered", "pending", "dead", "set_aside", "dead_letters")}
    assert counted == {"accepted": 5, "delivered": 1, "pending": 3, "dead": 1, "set_aside": 0, "dead_letters": 1}
    assert found["dropped"] == {}
    listed = [json.loads(line) for line in spool("ls", "--dir", str(filled), "--json").splitlines()]
    assert [(each["seq"], each["event"]["entity"]["business_key"]) for each in listed] == [
        (3, "LOT-2"), (4, "LOT-3"), (5, "LOT-4"),
    ]  # fmt: skip
    assert "LOT-2" in spool("ls", "--dir", str(filled))
    assert json.loads(spool("show", "4", "--dir", str(filled)))["entity"]["business_key"] == "LOT-3"
    assert "no event 9" not in spool("show", "9", "--dir", str(filled), code=1)
    assert "3 pending events whole, 0 missing, 0 damaged" in spool("verify", "--dir", str(filled))
    exported = [json.loads(line) for line in spool("export", "--dir", str(filled)).splitlines()]
    assert [each["entity"]["business_key"] for each in exported] == ["LOT-2", "LOT-3", "LOT-4"]
    assert "wrong_site" in spool("dead", "ls", "--dir", str(filled))
    assert json.loads(spool("dead", "show", "1", "--dir", str(filled)))["attempts"] == 2
    assert files(filled) == before


def test_verify_finds_a_flipped_bit(filled: Path) -> None:
    segment = next(filled.glob("*.segment"))
    whole = segment.read_bytes()
    place = whole.index(b"LOT-3")
    segment.write_bytes(whole[:place] + b"M" + whole[place + 1 :])
    lines = [json.loads(line) for line in spool("verify", "--dir", str(filled), "--json", code=1).splitlines()]
    assert (lines[0]["what"], lines[0]["offset"] > 0, lines[-1]["missing"]) == ("damaged", True, 1)


def test_every_command_answers_in_json(filled: Path, local: Service) -> None:
    there = ["--dir", str(filled), "--json"]
    event = json.loads(spool("show", "4", *there))
    assert (event["seq"], event["event"]["entity"]["business_key"]) == (4, "LOT-3")
    assert spool("export", *there) == spool("ls", *there)
    letter = json.loads(spool("dead", "show", "1", *there))
    assert (letter["number"], letter["status"], letter["event"]["entity"]["business_key"]) == (1, 207, "LOT-1")
    assert json.loads(spool("dead", "ls", *there)) == letter
    kept = spool("replay", "--keep", *there, "--url", local.url)
    assert json.loads(kept) == {"sent": 3, "refused": 0, "unreadable": 0}
    sent = spool("replay", *there, "--url", local.url)
    assert json.loads(sent) == {"delivered": 3, "dead_letters": 0, "set_aside": 0, "left": 0}
    assert json.loads(spool("dead", "retry", "1", *there, "--url", local.url)) == {"chosen": 1, "accepted": 1}
    assert json.loads(spool("dead", "drop", "--all", *there)) == {"dropped": 0}
    assert json.loads(spool("verify", *there))["findings"] == 0


def test_a_backlog_that_is_refused_ends_with_1(filled: Path, make_role: StartRole, database_url: str) -> None:
    local = make_role("local", FABMON_DATABASE_URL=database_url, FABMON_SITE_ID="another").start()
    told = spool("replay", "--json", "--dir", str(filled), "--url", local.url, code=1)
    assert json.loads(told) == {"delivered": 0, "dead_letters": 3, "set_aside": 0, "left": 0}
    assert stat(filled)["dead_letters"] == 4
    told = spool("dead", "retry", "2", "--json", "--dir", str(filled), "--url", local.url, code=1)
    assert json.loads(told) == {"chosen": 1, "accepted": 0}


def test_damaged_dead_letters_and_books_are_shown_and_found(filled: Path) -> None:
    there = ["--dir", str(filled)]
    listed = spool("dead", "ls", *there)
    assert all(each in listed for each in ("wrong_site (207): this is site fab1 after 2 tries", "job", "LOT-1"))
    letters = filled / "dead.jsonl"
    whole = letters.read_bytes()
    # A blank line is no letter: the spool begins a new life with one.
    letters.write_bytes(b"\n" + whole + b"\xff{nonsense\n" + whole[:40])
    assert stat(filled)["dead_letters"] == 3
    assert spool("dead", "ls", *there).splitlines()[1].split()[:2] == ["2", "unreadable:"]
    assert json.loads(spool("dead", "ls", "--json", *there).splitlines()[1])["line"] == "\ufffd{nonsense"
    assert "nonsense" in json.loads(spool("dead", "show", "2", "--json", *there))["line"]
    assert spool("dead", "show", "3", *there) == whole[:40].decode()
    found = [json.loads(line) for line in spool("verify", "--json", *there, code=1).splitlines()]
    assert [(each["file"], each["offset"], each["length"]) for each in found[:-1]] == [
        ("dead.jsonl", 1 + len(whole), 11), ("dead.jsonl", 1 + len(whole) + 11, 40),
    ]  # fmt: skip
    spool("dead", "drop", "2", "3", *there)
    assert letters.read_bytes() == b"\n" + whole
    letters.write_bytes(whole + whole)
    assert "1 dropped" in spool("dead", "drop", "2", *there)
    assert letters.read_bytes() == whole
    assert "3 pending events whole" in spool("verify", *there)
    books = filled / "books"
    books.write_bytes(books.read_bytes()[:-3] + b"xxx")
    assert "books at 0" in spool("verify", *there, code=1)


@pytest.mark.parametrize("name", ["dead.jsonl", "books"])
@pytest.mark.parametrize("kind", ["directory", "pipe", "endless"])
def test_what_is_no_plain_file_ends_a_command_with_a_line(filled: Path, name: str, kind: str) -> None:
    place = filled / name
    place.unlink()
    if kind == "directory":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero")
    for command in (["stat"], ["verify"], ["dead", "ls"]):
        if name == "books" and command[0] == "dead":
            continue
        spool(*command, "--dir", str(filled), code=1, says=f"{name} cannot be read: it is no plain file")


def test_version_1_is_read(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(V1, copy)
    assert (stat(copy)["accepted"], stat(copy)["pending"], stat(copy)["dead_letters"]) == (20, 15, 1)
    assert len(spool("export", "--dir", str(copy)).splitlines()) == 15


def test_a_copied_backlog_and_its_dead_letters_reach_a_site(filled: Path, local: Service) -> None:
    spool("dead", "retry", "--all", "--dir", str(filled), "--url", local.url)
    assert stat(filled)["dead_letters"] == 0
    assert "3 sent" in spool("replay", "--keep", "--dir", str(filled), "--url", local.url)
    assert stat(filled)["pending"] == 3
    assert "3 delivered, 0 dead" in spool("replay", "--dir", str(filled), "--url", local.url)
    assert (stat(filled)["pending"], stat(filled)["delivered"]) == (0, 4)
    keys = {item["job_key"] for item in local.get("/v1/jobs").json["items"]}
    assert keys == {"LOT-1", "LOT-2", "LOT-3", "LOT-4"}


def test_large_events_go_in_bodies_that_a_site_takes(tmp_path: Path, local: Service) -> None:
    """17 MiB of letters, as much of a backlog, and a site takes 16 at a time."""
    asyncio.run(_fill_with_large(tmp_path, 300))
    assert "300 sent" in spool("replay", "--keep", "--dir", str(tmp_path), "--url", local.url)
    assert "300 of 300 accepted" in spool("dead", "retry", "--all", "--dir", str(tmp_path), "--url", local.url)
    assert stat(tmp_path)["dead_letters"] == 0


async def _fill_with_large(directory: Path, count: int) -> None:
    async with open_spool(directory, LIMIT) as opened:
        await opened.append([event_bytes(at=n, metadata={"note": 60_000 * "x"}) for n in range(2 * count)])
        records = await opened.read(count, LIMIT)
        await opened.acknowledge(count, [Letter(each, "wrong_site", "", 207, 1, now(), now()) for each in records])


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_dead_letters_that_change_while_they_are_chosen(filled: Path) -> None:
    """Another command takes one out, and the spool adds one: what was chosen goes, if it is there, and nothing else."""
    command = [sys.executable, "-m", "fabmon", "spool", "dead", "drop", "--all", "--dir", str(filled)]
    path = filled / "dead.jsonl"
    first = path.read_bytes()
    second, third = first.replace(b"LOT-1", b"LOT-8"), first.replace(b"LOT-1", b"LOT-9")
    path.write_bytes(first + second)
    with ExitStack() as held:
        held.enter_context(Disk().locked(filled / "dead.lock"))
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            eventually(lambda: _has_open(running.pid, "dead.lock"))
            path.write_bytes(second + third)
            held.close()
            out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err) == (0, "1 dropped\n", "")
    assert path.read_bytes() == third


def test_beside_a_live_sidecar(make_role: StartRole, local: Service) -> None:
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url).start()
    local.kill()
    sidecar.send([event_dict() for _ in range(3)] + [event_dict(site="fab9")])
    directory = Path(sidecar.get("/v1/healthz").json["spool_dir"])
    assert stat(directory)["pending"] == 4
    spool("replay", "--dir", str(directory), code=1)  # it is in use
    local.start()
    eventually(lambda: sidecar.get("/v1/healthz").json["spool_count"] == 0)
    assert stat(directory)["dead_letters"] == 1
    spool("dead", "drop", "1", "--dir", str(directory))
    eventually(lambda: sidecar.get("/v1/healthz").json["dead_letters"] == 0)
    books = sidecar.get("/v1/healthz").json["spool"]
    assert (books["accepted"], books["delivered"], books["dead"], books["pending"]) == (4, 3, 1, 0)
    assert "fabmon_spool_dead_total 1.0" in sidecar.get("/metrics").body.decode()


def _has_open(pid: int, name: str) -> bool:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            if descriptor.readlink().name == name:
                return True
    return False


def test_no_spool_is_another_answer_than_no_dead_letters(filled: Path, tmp_path: Path) -> None:
    for command in (["ls"], ["retry", "--all"], ["drop", "--all"]):
        spool("dead", *command, "--dir", str(tmp_path / "nowhere"), code=1)
    (filled / "dead.jsonl").unlink()
    assert spool("dead", "ls", "--dir", str(filled)) == ""
