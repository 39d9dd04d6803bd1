"""The SDK and `fabmon run` over TLS, with a private CA, and with a token from the environment or a file."""

import socket
import ssl
import time
from pathlib import Path

import pytest

from tests.fixtures.papers import Papers
from tests.fixtures.programs import python
from tests.fixtures.stub_sidecar import Sidecar, fabmon_run
from tests.fixtures.timing import in_time

JOB = "import fabmon\nwith fabmon.job('x') as job: job.progress(0.5)"


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


def server_context(papers: Papers, certificate: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=papers.ca)
    context.load_cert_chain(certificate)
    return context


def kept(data_dir: Path) -> list[bytes]:
    return [line for path in (data_dir / "unsent").glob("*.jsonl") for line in path.read_bytes().splitlines()]


def test_a_private_ca_a_client_certificate_and_a_token_file(
    papers: Papers, environment: dict[str, str], tmp_path: Path
) -> None:
    tls = server_context(papers, papers.server)
    tls.verify_mode = ssl.CERT_REQUIRED
    (tmp_path / "token").write_text("from-a-file\n")
    settings = {
        "FABMON_CA": papers.ca,
        "FABMON_CLIENT_CERT": papers.client,
        "FABMON_TOKEN_FILE": str(tmp_path / "token"),
    }
    with Sidecar(tls=tls).serving() as sidecar:
        done = python(JOB, sidecar.url, tmp_path, settings)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(sidecar.events) == 3
        for flags in ([], ["--wait"]):
            run = fabmon_run({**environment, **settings}, sidecar.url, *flags, "--", "true")
            assert (run.returncode, run.stderr) == (0, b"")
        sidecar.expect(7)
    assert set(sidecar.tokens) == {"Bearer from-a-file"}


@pytest.mark.parametrize(
    ("certificate", "settings", "said"),
    [
        ("server", {}, "its certificate is refused"),
        ("server", {"FABMON_CA": "other_ca"}, "its certificate is refused"),
        ("expired", {"FABMON_CA": "ca"}, "expired"),
        ("server", {"FABMON_CA": "/nowhere"}, "FABMON_CA: /nowhere: No such file"),
        ("server", {"FABMON_CA": "ca", "FABMON_CLIENT_CERT": "/nowhere"}, "FABMON_CLIENT_CERT"),
        ("server", {"FABMON_CA": "ca", "FABMON_TOKEN_FILE": "/nowhere"}, "FABMON_TOKEN_FILE"),
    ],
)
def test_what_does_not_fit_is_said_once_and_nothing_is_lost(
    papers: Papers, tmp_path: Path, certificate: str, settings: dict[str, str], said: str
) -> None:
    environment = {name: getattr(papers, value, value) for name, value in settings.items()}
    with Sidecar(tls=server_context(papers, getattr(papers, certificate))).serving() as sidecar:
        done = python(JOB, sidecar.url, tmp_path, environment)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not sidecar.bodies
    assert len(kept(tmp_path)) == 3


def test_a_server_that_is_silent_in_the_handshake_costs_no_more_than_one_without_tls(tmp_path: Path) -> None:
    runs = 0

    def run() -> float:
        nonlocal runs
        runs += 1
        begun = time.monotonic()
        done = python(JOB, f"https://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        took = time.monotonic() - begun
        assert (done.returncode, done.stderr) == (0, "")
        return took

    with socket.create_server(("127.0.0.1", 0)) as silent:
        in_time(3.0, run)
    assert len(kept(tmp_path)) == 3 * runs
