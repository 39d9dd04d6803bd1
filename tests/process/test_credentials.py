"""What a role presents to another one, changed while it runs."""

import time
from pathlib import Path

import pytest

from tests.fixtures.roles import Service, StartRole, eventually
from tests.fixtures.tokens import add_token, bearer
from tests.make import event_dict, life
from tests.process.test_start import fabmon

pytestmark = pytest.mark.one_lane

ONE = "/v1/ingest/events"


def test_the_token_to_present_is_read_again_from_its_file(
    data_dir: Path, make_role: StartRole, database_url: str
) -> None:
    _, tokens, local = _guarded(data_dir, make_role, database_url)
    kept, asking = data_dir / "kept", data_dir / "asking"
    kept.write_text("fabmon_not-yet-known\n")
    asking.write_text(tokens["writer"])
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url, FABMON_TOKEN_FILE=str(kept)).start()
    sites = data_dir / "sites.toml"
    sites.write_text(f'[fab1]\nurl = "{local.url}"\ntoken_file = "{asking}"\n')
    central = make_role("central", FABMON_SITES=str(sites)).start()
    assert (sidecar.send(life()).json["spooled"], central.get("/v1/jobs?site=fab1").status) == (4, 502)
    asking.write_text(tokens["reader"] + "\n")
    for content in ("", tokens["writer"] + "\n"):  # in the middle of a renewal, and after it
        kept.write_text(content)
        time.sleep(1.2)
    eventually(lambda: sidecar.get("/v1/healthz").json["spool_count"] == 0)
    eventually(lambda: central.get("/v1/jobs?site=fab1").status == 200)
    assert "credentials.unusable" in sidecar.log
    assert all(secret not in sidecar.log + central.log for secret in tokens.values())
    shown = fabmon("jobs", "--url", local.url, "--json", FABMON_TOKEN_FILE=str(asking))
    assert (shown.returncode, '"items"' in shown.stdout) == (0, True), shown.stderr
    assert "FABMON_TOKEN_FILE" in fabmon("jobs", "--url", local.url, FABMON_TOKEN_FILE="/nowhere").stderr


def test_an_expired_token_pauses_the_sidecar_and_loses_nothing(
    data_dir: Path, make_role: StartRole, database_url: str
) -> None:
    file, tokens, local = _guarded(data_dir, make_role, database_url)
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url, FABMON_TOKEN=tokens["writer"]).start()
    assert sidecar.send(life()).json["forwarded"] == 4
    good = file.read_bytes()
    assert fabmon("token", "revoke", "writer", FABMON_TOKENS_FILE=str(file)).returncode == 0
    eventually(lambda: local.ask("GET", "/v1/jobs", headers=bearer(tokens["writer"])).status == 401)  # was 403
    sent = [event_dict() for _ in range(50)]
    for each in sent:
        assert sidecar.post(ONE, each).json == {"ok": True}
    refused = local.log.count("access.refused")
    eventually(lambda: local.log.count("access.refused") >= refused + 2)  # it tries again, and gives nothing up
    health = sidecar.get("/v1/healthz").json
    assert (health["spool_count"], health["dead_letters"], health["upstream"]["state"]) == (50, 0, "refusing")
    assert "401" in health["upstream"]["reason"]
    file.write_bytes(good)
    eventually(lambda: sidecar.get("/v1/healthz").json["spool_count"] == 0)
    assert local.ask("GET", "/v1/jobs", headers=bearer(tokens["reader"])).json["count"] == 51
    assert sidecar.get("/v1/healthz").json["dead_letters"] == 0
    assert tokens["writer"] not in sidecar.log


def _guarded(data_dir: Path, make_role: StartRole, database_url: str) -> tuple[Path, dict[str, str], Service]:
    file = data_dir / "tokens"
    tokens = {"writer": add_token(file, "writer", "ingest"), "reader": add_token(file, "reader", "read")}
    settings = {"FABMON_DATABASE_URL": database_url, "FABMON_SITE_ID": "fab1", "FABMON_TOKENS_FILE": str(file)}
    return file, tokens, make_role("local", **settings).start()
