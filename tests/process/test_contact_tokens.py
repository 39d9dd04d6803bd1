"""Who may speak for a sidecar: what it says moves `complete_until` of its site."""

from pathlib import Path
from uuid import uuid4

import pytest

from tests.fixtures.roles import StartRole, eventually
from tests.fixtures.tokens import add_token, bearer
from tests.make import event_dict

pytestmark = pytest.mark.one_lane

INGEST = "/v1/ingest/events"


def test_a_token_speaks_for_the_sidecars_of_its_sites_only(
    make_role: StartRole, database_url: str, data_dir: Path
) -> None:
    file = data_dir / "tokens"
    mine = bearer(add_token(file, "mine", "ingest", sites=("fab1", "fab7")))
    other = bearer(add_token(file, "other", "ingest", sites=("fab2",)))
    chief = bearer(add_token(file, "chief", "admin"))
    settings = {"FABMON_DATABASE_URL": database_url, "FABMON_TOKENS_FILE": str(file)}
    local = make_role("local", FABMON_SITE_ID="fab1", **settings).start()
    quiet, noted = str(uuid4()), str(uuid4())
    held = {"pending": 0, "site_id": "fab1"}
    assert local.post(f"/v1/ingest/sidecars/{quiet}", held, other).status == 403
    # What goes with a batch is not heard either; through the other doors it is heard as through the first.
    said = {"x-fabmon-sidecar": quiet, "x-fabmon-pending": "9"}
    assert local.post(INGEST, event_dict(site="fab2"), {**other, **said}).status == 422
    said = {"x-fabmon-sidecar": noted, "x-fabmon-pending": "9"}
    assert local.ask("POST", "/v1/ping/backup/nightly/started", headers={**mine, **said}).status == 200
    eventually(lambda: local.ask("GET", "/v1/sidecars", headers=chief).json["items"])
    known = local.ask("GET", "/v1/sidecars", headers=chief).json["items"]
    assert [(item["id"], item["pending"]) for item in known] == [(noted, 9)]
    # Where any site is served, the sidecar says which one is its own.
    open_to_all = make_role("local", **settings).start()
    answers = {
        site: open_to_all.post(f"/v1/ingest/sidecars/{uuid4()}", {"pending": 0, "site_id": site}, mine).status
        for site in ("fab1", "fab2", None)
    }
    assert answers == {"fab1": 204, "fab2": 403, None: 403}
