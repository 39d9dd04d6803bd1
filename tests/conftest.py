"""The options of the test run; the fixtures are in tests/fixtures.

`database_url` runs a test once per lane: `embedded`, the server of the `embedded` extra, and `timescale`, the one at
FABMON_TEST_DATABASE_URL (`make timescale` builds it). Without that variable the second is left out, except in CI. A test
marked `one_lane` needs a database, and any will do: what it tests has no SQL of its own.
"""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

from tests.fixtures.lanes import LANES, TEST_URL

pytest_plugins = ["tests.fixtures.database", "tests.fixtures.roles", "tests.fixtures.servers"]

# A machine that others use, too, is slow at times; and what a fixture gives may serve all examples of a test.
settings.register_profile(
    "fabmon", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("fabmon")

ALL_LANES = ("embedded", "timescale")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fabmon")
    group.addoption("--lane", choices=[*ALL_LANES, "all"], default="all", help="databases to test against")
    group.addoption(
        "--require-timescale", action="store_true", help="fail where the timescale lane cannot run, as in CI"
    )
    group.addoption("--soak", type=int, default=1, metavar="N", help="N times as many random histories and kills")


def pytest_configure(config: pytest.Config) -> None:
    url = os.environ.get("FABMON_TEST_DATABASE_URL", "")
    for name in [name for name in os.environ if name.startswith("FABMON_")]:
        del os.environ[name]  # a developer's settings must not change what a test sees
    lane = config.getoption("--lane")
    required = config.getoption("--require-timescale") or os.environ.get("CI") == "true"
    if not url and (lane == "timescale" or (required and lane == "all")):
        raise pytest.UsageError("the timescale lane needs FABMON_TEST_DATABASE_URL: `make timescale` prints one")
    wanted = ALL_LANES if lane == "all" else (lane,)
    config.stash[TEST_URL] = url
    config.stash[LANES] = [
        name for name in wanted if (name == "timescale" and url) or (name == "embedded" and sys.platform != "win32")
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lane" in metafunc.fixturenames:
        lanes = metafunc.config.stash[LANES]
        if metafunc.definition.get_closest_marker("one_lane"):
            lanes = lanes[:1]
        metafunc.parametrize("lane", lanes, indirect=True, scope="session")


@pytest.fixture(scope="session")
def lane(request: pytest.FixtureRequest) -> str:
    """`embedded` or `timescale`."""
    return str(request.param)


@pytest.fixture(scope="session")
def soak(pytestconfig: pytest.Config) -> int:
    """How many times more than usual a random test tries."""
    return int(pytestconfig.getoption("--soak"))


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that fabmon runs on: async tests use anyio's plugin, which keeps a fixture's two halves in one task."""
    return "asyncio", {"use_uvloop": sys.platform != "win32"}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing is skipped in CI: what a machine lacks there is a missing install step."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    if reporter is not None and skipped and os.environ.get("CI") == "true":
        for report in skipped:
            reporter.write_line(f"skipped in CI: {report.nodeid}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
