"""What each role says of itself in /metrics."""

import re
import subprocess

import pytest

from tests.fixtures.programs import promtool
from tests.fixtures.roles import Service, StartRole, eventually
from tests.make import event_dict, life

pytestmark = pytest.mark.one_lane


@pytest.fixture
def sidecar(make_role: StartRole, local: Service) -> Service:
    """The real one; the tests of reporting have a stub of that name (conftest.py)."""
    return make_role("sidecar", FABMON_LOCAL_URL=local.url).start()


def families(service: Service) -> set[str]:
    text = service.get("/metrics").body.decode()
    return set(re.findall(r"^# TYPE (fabmon_\w+) ", text, re.MULTILINE))


def value(service: Service, series: str) -> float | None:
    """The value of *series*, written as in the exposition."""
    for line in service.get("/metrics").body.decode().splitlines():
        if line.startswith(series + " "):
            return float(line.rpartition(" ")[2])
    return None


def test_every_role_says_what_it_is_and_promtool_accepts_it(sidecar: Service, local: Service, central: Service) -> None:
    sidecar.send(life())
    assert central.get("/v1/jobs?site=fab1").status == 200
    for role in (sidecar, local, central):
        text = role.get("/metrics").body
        done = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, check=False)
        assert done.returncode == 0, (role.role, done.stdout + done.stderr)
    # A role says nothing of what it does not have: a gauge that is always 0 would be an alert's false friend.
    spool = {"fabmon_spool_pending_events", "fabmon_upstream_up", "fabmon_spool_max_bytes", "fabmon_events_total"}
    store = {"fabmon_commit_seconds", "fabmon_feed_lag_seconds"}
    sites = {"fabmon_site_seconds", "fabmon_site_up"}
    assert (spool <= families(sidecar), families(sidecar) & (store | sites)) == (True, set())
    assert (spool | store <= families(local), families(local) & sites) == (True, set())
    assert (sites <= families(central), families(central) & (spool | store)) == (True, set())
    assert value(sidecar, "fabmon_spool_max_bytes") == 1024**3
    assert (value(sidecar, "fabmon_spool_disk_free_bytes") or 0) > 1024**2


def test_central_sees_that_a_site_goes_without_being_asked(local: Service, make_role: StartRole) -> None:
    nowhere = "http://127.0.0.1:1"
    central = make_role("central", FABMON_SITES=f"fab1={local.url},fab2={nowhere}").start()
    eventually(lambda: value(central, 'fabmon_site_up{site="fab1"}') == 1)
    eventually(lambda: value(central, 'fabmon_site_up{site="fab2"}') == 0)
    assert central.get("/v1/jobs?site=fab2").status == 502
    assert value(central, 'fabmon_site_failures_total{site="fab2",status="refused"}') == 1
    assert value(central, 'fabmon_site_seconds_count{site="fab2"}') == 1


def test_local_counts_the_jobs_of_its_database_when_it_starts(make_role: StartRole, database_url: str) -> None:
    settings = {"FABMON_DATABASE_URL": database_url, "FABMON_SITE_ID": "fab1"}
    local = make_role("local", **settings).start()
    local.send([event_dict(app_name='say "etch"\n'), event_dict(app_name="backup"), event_dict(app_name="backup")])
    assert local.stop() == 0
    local.start()
    eventually(lambda: value(local, 'fabmon_jobs{app="backup",status="running"}') == 2)
    assert value(local, r'fabmon_jobs{app="say \"etch\"\n",status="running"}') == 1
    assert value(local, 'fabmon_silent_jobs{app="backup"}') == 2  # they began in the past, and that is long ago
