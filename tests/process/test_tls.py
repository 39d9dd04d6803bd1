"""TLS between real roles, over a CA of the tests' own: who gets in, and what both ends say when somebody does not."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.fixtures.papers import Papers
from tests.fixtures.roles import Service, StartRole, eventually, free_port
from tests.fixtures.sse import open_stream
from tests.make import event_dict, life
from tests.process.test_start import fabmon

pytestmark = pytest.mark.one_lane


@pytest.fixture
def papers(data_dir: Path) -> Papers:
    return Papers(data_dir)


@pytest.fixture
def start_local(papers: Papers, make_role: StartRole, database_url: str) -> Callable[..., Service]:
    port = free_port()

    def start(certificate: str = papers.server) -> Service:
        local = make_role(
            *("local", port),
            FABMON_DATABASE_URL=database_url,
            FABMON_SITE_ID="fab1",
            FABMON_TLS_CERT=certificate,
            FABMON_TLS_CLIENT_CA=papers.ca,
        )
        local.tls = papers.asking
        if certificate == papers.expired:
            local.tls = papers.trusting_all
        return local.start()

    return start


def test_events_and_questions_go_through_with_the_right_certificates(
    papers: Papers, start_local: Callable[..., Service], make_role: StartRole
) -> None:
    local = start_local()
    ours = {"FABMON_CA": papers.ca, "FABMON_CLIENT_CERT": papers.client}
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url, **ours).start()
    central = make_role("central", FABMON_SITES=f"fab1={local.url}", **ours).start()
    assert sidecar.send(life()).json["forwarded"] == 4
    assert central.get("/v1/jobs?site=fab1").json["count"] == 1
    assert central.get("/v1/healthz").json["sites"]["fab1"]["status"] == "ok"
    shown = fabmon("jobs", "--url", local.url, **ours)
    assert (shown.returncode, "recipe-runner" in shown.stdout) == (0, True), shown.stderr
    stranger = fabmon("jobs", "--url", local.url)
    assert (stranger.returncode, stranger.stderr.count("\n")) == (1, 1)
    assert "FABMON_CA" in stranger.stderr
    assert "plain_http" not in local.log


def test_whoever_does_not_get_in_hears_why_and_loses_nothing(
    papers: Papers, start_local: Callable[..., Service], make_role: StartRole, data_dir: Path
) -> None:
    local = start_local()
    place = data_dir / "the-sidecar"
    place.mkdir()
    sent = 0

    def run(said: str, heard: str, **settings: str) -> None:
        nonlocal sent
        sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url, FABMON_DATA_DIR=str(place), **settings)
        sidecar.start("/livez")
        assert sidecar.post("/v1/ingest/events", event_dict()).json == {"ok": True}
        sent += 1
        health = sidecar.get("/v1/healthz").json
        assert (health["spool_count"], health["dead_letters"]) == (sent, 0)
        assert said in health["upstream"]["reason"], health["upstream"]
        assert said in sidecar.log
        eventually(lambda: f'"tls.refused","reason":"{heard}' in local.log, why=lambda: local.log)
        assert sidecar.stop() == 0

    ours = {"FABMON_CA": papers.ca, "FABMON_CLIENT_CERT": papers.client}
    run("its certificate is refused: self-signed", "the caller broke off", **ours | {"FABMON_CA": papers.other_ca})
    run(
        "does it ask for a client certificate? (FABMON_CLIENT_CERT)",
        "PEER_DID_NOT_RETURN_A_CERTIFICATE",
        FABMON_CA=papers.ca,
    )
    run(
        "does it ask for a client certificate? (FABMON_CLIENT_CERT)",
        "unable to get local issuer",
        **ours | {"FABMON_CLIENT_CERT": papers.stranger},
    )
    assert local.stop() == 0
    local = start_local(papers.expired)
    run("certificate has expired (FABMON_CA)", "the caller broke off", **ours)
    assert local.stop() == 0

    local = start_local()
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url, FABMON_DATA_DIR=str(place), **ours).start()
    eventually(lambda: sidecar.get("/v1/healthz").json["spool_count"] == 0)
    assert local.get("/v1/jobs").json["count"] == sent == 4


def test_a_renewed_certificate_is_used_without_a_restart(papers: Papers, make_role: StartRole, data_dir: Path) -> None:
    served = data_dir / "served.pem"
    served.write_bytes(Path(papers.expired).read_bytes())
    role = make_role("sidecar", FABMON_LOCAL_URL="http://127.0.0.1:1", FABMON_TLS_CERT=str(served))
    role.tls = papers.trusting_all
    role.start("/livez")
    role.tls = papers.asking
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        role.get("/livez")
    served.write_text("half of")
    eventually(lambda: "tls.unusable" in role.log)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        role.get("/livez")
    served.write_bytes(Path(papers.server).read_bytes())
    eventually(lambda: "tls.renewed" in role.log)
    assert role.get("/livez").status == 200


def test_authorities_and_a_clients_certificate_are_read_again(
    papers: Papers, make_role: StartRole, database_url: str, data_dir: Path
) -> None:
    """A fab changes its CA: first at the site, then at the sidecar; nothing is restarted and nothing lost."""
    accepted, trusted, shown = (data_dir / name for name in ("accepted.pem", "trusted.pem", "shown.pem"))
    accepted.write_bytes(Path(papers.other_ca).read_bytes())
    trusted.write_bytes(Path(papers.other_ca).read_bytes())
    shown.write_bytes(Path(papers.stranger).read_bytes())
    local = make_role(
        "local",
        FABMON_DATABASE_URL=database_url,
        FABMON_TLS_CERT=papers.server,
        FABMON_TLS_CLIENT_CA=str(accepted),
    )
    local.tls = papers.trusting_all
    local.tls.load_cert_chain(papers.stranger)
    local.start()
    settings = {"FABMON_CA": str(trusted), "FABMON_CLIENT_CERT": str(shown), "FABMON_LOCAL_URL": local.url}
    sidecar = make_role("sidecar", **settings).start()

    def send() -> dict[str, int]:
        found: dict[str, int] = sidecar.send([event_dict()]).json
        return found

    assert send()["spooled"] == 1  # our CA is not trusted yet
    trusted.write_bytes(Path(papers.ca).read_bytes())
    eventually(lambda: send()["forwarded"] == 1)
    accepted.write_bytes(Path(papers.ca).read_bytes())
    eventually(lambda: "tls.renewed" in local.log)
    local.tls.load_cert_chain(papers.client)
    assert local.get("/livez").status == 200
    shown.write_text("half of")
    eventually(lambda: "credentials.unusable" in sidecar.log or not send())
    shown.write_bytes(Path(papers.client).read_bytes())
    eventually(lambda: sidecar.log.count("credentials.read") == 2 or not send())
    eventually(lambda: send()["forwarded"] == 1)
    eventually(lambda: sidecar.get("/v1/healthz").json["spool_count"] == 0)
    assert sidecar.get("/v1/healthz").json["dead_letters"] == 0


def test_central_says_which_site_it_cannot_trust(
    papers: Papers, start_local: Callable[..., Service], make_role: StartRole
) -> None:
    local = start_local()
    central = make_role("central", FABMON_SITES=f"fab1={local.url}", FABMON_CA=papers.other_ca).start()
    reply = central.get("/v1/jobs?site=fab1")
    assert (reply.status, "fab1" in reply.json["detail"], "FABMON_CA" in reply.json["detail"]) == (502, True, True)


def test_a_site_with_an_expired_certificate_is_listed_and_the_others_are_answered(
    papers: Papers, start_local: Callable[..., Service], make_role: StartRole, new_database: Callable[[], str]
) -> None:
    expired = start_local(papers.expired)
    other = make_role("local", FABMON_DATABASE_URL=new_database(), FABMON_SITE_ID="fab2").start()
    other.send(life(site="fab2"))
    ours = {"FABMON_CA": papers.ca, "FABMON_CLIENT_CERT": papers.client}
    central = make_role("central", FABMON_SITES=f"fab1={expired.url},fab2={other.url}", **ours).start()
    reply = central.get("/v1/jobs?site=*").json
    assert (reply["count"], reply["complete"], reply["sites"]["fab2"]["status"]) == (1, False, "ok")
    assert reply["sites"]["fab1"]["status"] == "refused"
    why = "its certificate is refused: certificate has expired"
    assert why in reply["sites"]["fab1"]["error"]
    assert why in central.get("/v1/healthz").json["sites"]["fab1"]["error"]
    assert why in central.get("/v1/jobs?site=fab1").json["detail"]
    with open_stream(central, "?site=*") as stream:
        assert why in stream.next()["error"]
        other.send([event_dict(site="fab2")])
        assert stream.next()["site_id"] == "fab2"


def test_a_file_that_cannot_be_used_stops_the_start(papers: Papers, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("hello")
    alone = tmp_path / "key.pem"
    alone.write_bytes(trustme.CA().issue_cert("127.0.0.1").private_key_pem.bytes())
    for role, settings, word in (
        ("sidecar", {"FABMON_TLS_CERT": "/nowhere.pem"}, "FABMON_TLS_CERT"),
        ("sidecar", {"FABMON_TLS_KEY": papers.server}, "FABMON_TLS_CERT is not set"),
        ("central", {"FABMON_TLS_CERT": papers.server, "FABMON_TLS_KEY": str(alone)}, "KEY_VALUES_MISMATCH"),
        ("central", {"FABMON_TLS_CERT": str(nonsense)}, "FABMON_TLS_CERT"),
        ("local", {"FABMON_TLS_CERT": papers.server, "FABMON_TLS_CLIENT_CA": str(nonsense)}, "FABMON_TLS_CLIENT_CA"),
        ("sidecar", {"FABMON_CA": str(nonsense)}, "FABMON_CA"),
        ("central", {"FABMON_CLIENT_CERT": "/nowhere.pem"}, "FABMON_CLIENT_CERT"),
        ("central", {"FABMON_CLIENT_KEY": papers.client}, "FABMON_CLIENT_CERT is not set"),
    ):
        done = fabmon("serve", "--role", role, FABMON_DATA_DIR=str(tmp_path), **settings)
        assert (done.returncode, done.stderr.count("\n"), word in done.stderr) == (2, 1, True), (settings, done.stderr)
