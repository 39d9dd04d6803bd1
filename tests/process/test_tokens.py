"""Contract section 9 on real roles: who may do what, and what stays hidden from those who may not."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.roles import Reply, Service, StartRole, eventually
from tests.fixtures.tokens import add_token, bearer
from tests.make import event_dict
from tests.process.test_start import fabmon

pytestmark = pytest.mark.one_lane

INGEST = "/v1/ingest/events"
ELSEWHERE = {"x-forwarded-for": "192.0.2.7"}  # what a proxy on this machine adds: the caller is somewhere else


@pytest.fixture
def file(data_dir: Path) -> Path:
    return data_dir / "tokens"


@pytest.fixture
def guarded(file: Path, make_role: StartRole, database_url: str) -> Iterator[tuple[Service, dict[str, str]]]:
    tokens = {
        "writer": add_token(file, "writer", "ingest"),
        "reader": add_token(file, "reader", "read"),
        "chief": add_token(file, "chief", "admin"),
        "other": add_token(file, "other", "ingest", "read", sites=("fab2",)),
        "fab1": add_token(file, "fab1", "ingest", "read", sites=("fab1", "fab7")),
    }
    settings = {"FABMON_DATABASE_URL": database_url, "FABMON_SITE_ID": "fab1", "FABMON_TOKENS_FILE": str(file)}
    local = make_role("local", **settings).start()
    yield local, tokens
    for secret in tokens.values():
        assert secret not in local.log


def test_each_scope_opens_what_it_names(guarded: tuple[Service, dict[str, str]]) -> None:
    local, tokens = guarded
    for name, ingest, read in (
        ("writer", 200, 403),
        ("reader", 403, 200),
        ("chief", 200, 200),
        ("other", 422, 403),  # let in, and each event refused by itself
        ("fab1", 200, 200),
    ):
        header = bearer(tokens[name])
        assert local.post(INGEST, event_dict(), header).status == ingest, name
        for path in ("/v1/jobs", "/v1/subjobs", "/v1/jobs?limit=1"):
            assert local.ask("GET", path, headers=header).status == read, (name, path)
        # Other front doors: let in means judged, and there is nothing in the body.
        for door in ("/v1/ping/app/key/begun", "/api/v1/lineage", "/v1/ingest/events:batch"):
            assert (local.post(door, b"", header).status != 403) == (ingest != 403), (name, door)
        # What does not exist is refused like what does.
        assert local.ask("GET", "/v1/nothing", headers=header).status == (404 if read == 200 else 403)


def test_without_a_right_token_nothing_is_said(guarded: tuple[Service, dict[str, str]]) -> None:
    local, tokens = guarded
    wrong = [
        {},
        bearer("fabmon_" + "A" * 43),
        bearer(tokens["reader"][:-1]),
        bearer(tokens["reader"] + "A"),
        {"authorization": "Basic " + tokens["reader"]},
        {"authorization": "Bearer"},
    ]
    answers = set()
    for headers in wrong:
        for path in ("/v1/jobs", "/v1/nothing", "/v1/stream", INGEST):
            reply = local.ask("GET", path, headers=headers)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer"), (headers, path)
            assert reply.headers["content-type"] == "application/problem+json"
            problem = reply.json
            assert problem.pop("instance") == path
            answers.add(str(problem))
        time.sleep(0.8)  # four failures are forgotten meanwhile
    assert len(answers) == 1
    assert '"code": "unauthorized"' in local.ask("GET", "/v1/jobs").body.decode().replace('":"', '": "')
    assert local.ask("GET", f"/v1/jobs?token={tokens['reader']}").status == 401  # never in a URL
    refused = [line for line in local.log.splitlines() if "access.refused" in line]
    assert len(refused) == len(wrong) * 4 + 2
    assert all('"address":"127.0.0.1"' in line for line in refused)


def test_health_needs_a_token_from_elsewhere_only(guarded: tuple[Service, dict[str, str]]) -> None:
    local, tokens = guarded
    for path, from_here, from_elsewhere in (
        ("/livez", 200, 200),
        ("/readyz", 200, 200),
        ("/v1/healthz", 200, 401),
        ("/metrics", 200, 401),
    ):
        assert local.get(path).status == from_here, path
        assert local.ask("GET", path, headers=ELSEWHERE).status == from_elsewhere, path
        assert local.ask("GET", path, headers={**ELSEWHERE, **bearer(tokens["reader"])}).status == 200, path


def test_a_site_bound_token_writes_and_reads_its_sites_only(
    file: Path, make_role: StartRole, database_url: str
) -> None:
    """On a `local` that serves any site, as one without FABMON_SITE_ID does."""
    bound = bearer(add_token(file, "bound", "ingest", "read", sites=("fab1",)))
    chief = bearer(add_token(file, "chief", "admin"))
    local = make_role("local", FABMON_DATABASE_URL=database_url, FABMON_TOKENS_FILE=str(file)).start()
    events = [event_dict(site=site) for site in ("fab1", "fab2", "fab1", "fab3")]
    events.insert(1, event_dict(kind="x"))
    reply = local.post("/v1/ingest/events:batch", events, bound)
    assert (reply.status, reply.json["stored"]) == (207, 2)
    assert [(why["index"], why["code"]) for why in reply.json["rejected"]] == [
        (1, "bad_kind"),
        (2, "forbidden_site"),
        (4, "forbidden_site"),
    ]
    single = local.post(INGEST, event_dict(site="fab2"), bound)
    assert (single.status, single.json["code"]) == (422, "forbidden_site")
    assert local.post("/v1/ingest/events:batch", [event_dict(site="fab2")], bound).status == 422
    local.post(INGEST, event_dict(site="fab2"), chief)
    # No front door is left open: the sink behind all of them asks.
    ping = local.ask("POST", "/v1/ping/backup/nightly/started?site=fab2", headers=bound)
    assert (ping.status, ping.json["code"]) == (422, "forbidden_site")
    assert local.ask("POST", "/v1/ping/backup/nightly/started?site=fab1", headers=bound).status == 200

    def sites(path: str, headers: dict[str, str]) -> set[str] | int:
        found = local.ask("GET", path, headers=headers)
        return {item["site_id"] for item in found.json["items"]} if found.status == 200 else found.status

    assert sites("/v1/jobs", chief) == {"fab1", "fab2"}
    assert sites("/v1/jobs?site_id=fab1", bound) == {"fab1"}
    for query in ("", "?site_id=fab2", "?site_id=!fab2", "?site_id=fab1&site_id=fab2", "?site_id=", "?site=fab1"):
        assert sites("/v1/jobs" + query, bound) == 403, query
    assert local.ask("GET", "/v1/stream?site_id=fab1,fab2", headers=bound).status == 403
    assert local.ask("GET", "/v1/anything?site_id=fab1", headers=bound).status == 403


def test_in_central_other_sites_do_not_exist_for_a_bound_token(
    file: Path, make_role: StartRole, guarded: tuple[Service, dict[str, str]]
) -> None:
    local, tokens = guarded
    central_file = file.with_name("central-tokens")
    bound = bearer(add_token(central_file, "bound", "read", sites=("fab1",)))
    chief = bearer(add_token(central_file, "chief", "read"))
    central = make_role(
        "central",
        FABMON_SITES=f"fab1={local.url},fab2={local.url}",
        FABMON_TOKEN=tokens["reader"],
        FABMON_TOKENS_FILE=str(central_file),
    ).start()

    def ask(path: str, headers: dict[str, str]) -> Reply:
        return central.ask("GET", path, headers=headers)

    assert ask("/v1/jobs?site=fab2", chief).status == ask("/v1/jobs?site=fab1", bound).status == 200
    assert ask("/v1/jobs?site=fab1", {}).status == 401
    theirs, nobodys = ask("/v1/jobs?site=fab2", bound), ask("/v1/jobs?site=fab9", bound)
    assert theirs.status == nobodys.status == 404
    assert theirs.body.replace(b"fab2", b"fab9") == nobodys.body
    assert [site["id"] for site in ask("/v1/sites", bound).json["sites"]] == ["fab1"]
    assert len(ask("/v1/sites", chief).json["sites"]) == 2
    assert b"fab2" not in ask("/v1/jobs", bound).body
    assert set(ask("/v1/healthz", {**bound, **ELSEWHERE}).json["sites"]) == {"fab1"}


def test_a_flood_of_wrong_tokens_is_slowed_and_shuts_nobody_out(guarded: tuple[Service, dict[str, str]]) -> None:
    local, tokens = guarded
    begun = time.monotonic()
    found = [local.ask("GET", "/v1/jobs", headers=bearer(f"wrong-{number}")) for number in range(100)]
    took = time.monotonic() - begun
    assert {reply.status for reply in found} == {401, 429}
    slowed = next(reply for reply in found if reply.status == 429)
    assert (slowed.json["code"], slowed.headers["retry-after"]) == ("too_many_failures", "1")
    assert local.ask("GET", "/v1/jobs", headers=bearer(tokens["reader"])).status == 200
    assert local.log.count("access.refused") == sum(reply.status == 401 for reply in found)
    assert 1 <= local.log.count("access.throttled") <= 8 + took
    assert 'fabmon_refused_requests_total{code="too_many_failures"}' in local.get("/metrics").body.decode()


def test_the_file_is_read_again_and_the_last_good_one_holds(
    file: Path, guarded: tuple[Service, dict[str, str]]
) -> None:
    local, tokens = guarded

    def status(secret: str) -> int:
        return local.ask("GET", "/v1/jobs", headers=bearer(secret)).status

    new = add_token(file, "reader", "read")  # the same name: both are good while one is replaced by the other
    eventually(lambda: status(new) == 200)
    assert status(tokens["reader"]) == 200
    good = file.read_bytes()
    damages = (b"", b"# x\n{", good + good.splitlines()[1], b'{"name":"x"}\n', b"\xff")
    for number, damage in enumerate(damages, 1):
        _replace(file, damage)
        eventually(lambda: status(new) == 200 and local.log.count("tokens.unusable") == number)  # noqa: B023 - called within its turn
    file.unlink()
    eventually(lambda: status(new) == 200 and local.log.count("tokens.unusable") == len(damages) + 1)
    _replace(file, good)
    file.chmod(0o644)
    eventually(lambda: status(new) == 200 and local.log.count("tokens.unusable") == len(damages) + 2)
    assert "0644" in local.log
    file.chmod(0o600)
    assert fabmon("token", "revoke", "chief", FABMON_TOKENS_FILE=str(file)).returncode == 0
    eventually(lambda: status(tokens["chief"]) == 401)
    assert status(new) == 200


def test_a_tokens_file_that_is_wrong_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    for content, mode, word in (
        (b"", 0o600, "empty"),
        (b"# none\n", 0o600, "no token"),
        (b"hello\n", 0o600, "line 1"),
        (b'\n{"name":"a","hash":"sha256:00","scopes":["read"]}\n', 0o600, "line 2"),
        (b'{"name":"a","hash":"sha256:' + b"0" * 64 + b'","scopes":["write"]}\n', 0o600, "line 1"),
        (b'{"name":"a","hash":"sha256:' + b"0" * 64 + b'","scopes":["read"],"site":"fab1"}\n', 0o600, "site"),
        (b'{"name":"a","hash":"sha256:' + b"0" * 64 + b'","scopes":["read"]}\n', 0o604, "chmod"),
        (b'{"name":"a","hash":"sha256:' + b"0" * 64 + b'","scopes":["read"]}\n', 0o602, "chmod"),
    ):
        file.write_bytes(content)
        file.chmod(mode)
        for role in ("sidecar", "central"):
            done = fabmon("serve", "--role", role, FABMON_TOKENS_FILE=str(file), FABMON_DATA_DIR=str(tmp_path))
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
            assert "FABMON_TOKENS_FILE" in done.stderr
            assert word in done.stderr, done.stderr
    gone = fabmon("serve", "--role", "sidecar", FABMON_TOKENS_FILE=str(tmp_path / "no"), FABMON_DATA_DIR=str(tmp_path))
    assert (gone.returncode, "No such file" in gone.stderr) == (2, True)


def test_a_tokens_file_that_may_not_be_read_is_named(file: Path) -> None:
    """As root nothing is unreadable: there the program becomes somebody else first."""
    add_token(file, "writer", "ingest")
    file.chmod(0o600 if os.geteuid() == 0 else 0o000)
    program = "import os, sys; from pathlib import Path; from fabmon.httpd.tokens import read_tokens\n"
    program += "if os.geteuid() == 0: os.seteuid(65534)\nread_tokens(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, "SettingsError: FABMON_TOKENS_FILE" in last, "Permission denied" in last) == (
        1,
        True,
        True,
    )


def test_with_tokens_a_role_may_listen_beyond_loopback(file: Path, make_role: StartRole) -> None:
    add_token(file, "writer", "ingest")
    sidecar = make_role("sidecar", FABMON_HOST="0.0.0.0", FABMON_TOKENS_FILE=str(file)).start("/livez")
    assert sidecar.get("/v1/healthz").status == 200
    address = _own_address()
    if address is not None:
        with socket.create_connection((address, sidecar.port), 5) as outside:
            outside.sendall(b"GET /v1/healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert outside.recv(100).startswith(b"HTTP/1.1 401")
    assert "role.plain_http" in sidecar.log


def _replace(file: Path, content: bytes) -> None:
    """In one step: the role never sees it half written."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(0o600)
    new.rename(file)


def _own_address() -> str | None:
    """An address of this machine that is not loopback, if it has one; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found = str(probe.getsockname()[0])
    return None if found.startswith("127.") or os.name == "nt" else found
