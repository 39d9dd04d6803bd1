"""What is released works where this repository is not: the Dockerfile's steps, the sdist, the wheel made from it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from fabmon.version import __version__
from tests.fixtures.roles import Service, StartRole, eventually, free_port
from tests.make import life

pytestmark = pytest.mark.one_lane

ROOT = Path(__file__).parents[2]
COPIED = re.compile(r"^COPY (?!--from)(.+) (\S+)$", re.MULTILINE)
INSTALL = re.compile(r"^RUN (python -m venv .+)$", re.MULTILINE)


def run(command: Sequence[str | Path], place: Path, **environment: str) -> str:
    """What it prints; nothing of this test's Python or of the checkout is in its environment."""
    clean = {name: os.environ[name] for name in os.environ if not name.startswith(("FABMON_", "PYTHON", "VIRTUAL_"))}
    given = {**clean, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_COMPILE": "1", **environment}
    done = subprocess.run(command, cwd=place, env=given, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, (command, done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment made as the image's is, from a folder that holds what the Dockerfile copies and nothing else."""
    place = tmp_path_factory.mktemp("image")
    source = place / "src"
    source.mkdir()
    dockerfile = (ROOT / "Dockerfile").read_text()
    for names, target in COPIED.findall(dockerfile):
        for name in names.split():
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, source / target)
    (command,) = INSTALL.findall(dockerfile)
    python = Path(sys.executable).resolve().parent  # without the packages of the environment that runs the tests
    run(
        ["sh", "-c", command.replace("/opt/fabmon", str(place / "fabmon"))],
        source,
        PATH=f"{python}:{os.environ['PATH']}",
    )
    return place / "fabmon"


def test_what_the_image_holds_runs_every_role(installed: Path, empty_database_url: str, data_dir: Path) -> None:
    program = installed / "bin" / "fabmon"
    assert run([program, "--version"], data_dir).strip() == __version__
    migrated = run([program, "migrate"], data_dir, FABMON_DATABASE_URL=empty_database_url)  # the SQL came along
    assert "up to date" in migrated
    settings = {"FABMON_DATABASE_URL": empty_database_url, "FABMON_SITE_ID": "fab1", "PYTHONPATH": ""}
    started: list[Service] = []
    try:
        for role in ("local", "sidecar", "central"):
            port, place = free_port(), data_dir / role
            place.mkdir()
            url = f"http://127.0.0.1:{started[0].port}" if started else ""
            given = {"FABMON_LOCAL_URL": url, "FABMON_SITES": f"fab1={url}"} if url else settings
            given = {**given, "FABMON_DATA_DIR": str(place), "PYTHONPATH": ""}
            started.append(Service(role, given, port, place / "log", str(installed / "bin" / "python")).start())
        assert started[1].send(life()).json["forwarded"] == 4
        eventually(lambda: started[2].get("/v1/jobs?site=fab1").json["count"] == 1)
        assert started[1].get("/v1/healthz").json["version"] == __version__
    finally:
        for service in started:
            service.stop()
    where = run([installed / "bin" / "python", "-c", "import fabmon; print(fabmon.__file__)"], data_dir).strip()
    assert Path(where).is_relative_to(installed)


def test_the_images_health_check_asks_the_role_that_is_there(make_role: StartRole) -> None:
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.+\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    role = make_role("central").start()
    command = [sys.executable, *json.loads(check)[1:]]

    def healthy() -> bool:
        environment = {**os.environ, "FABMON_PORT": str(role.port)}
        return subprocess.run(command, env=environment, timeout=60, check=False).returncode == 0

    assert healthy()
    role.stop()
    assert not healthy()


def test_the_wheel_that_comes_from_the_sdist_is_whole_and_its_bill_lists_it(installed: Path, tmp_path: Path) -> None:
    built = tmp_path / "dist"
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", built, ROOT], tmp_path)
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    assert wheel.name == f"fabmon-{__version__}-py3-none-any.whl"
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "sql/queries/write.sql", "src/fabmon/version.py"} <= names
    python = installed / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel], tmp_path)
    shown = "from fabmon.store.named import query; import fabmon.roles.local; print(len(query('read_changes')))"
    assert int(run([python, "-c", shown], tmp_path)) > 100
    bill = tmp_path / "fabmon.cdx.json"
    make: list[str | Path] = [
        sys.executable,
        "-m",
        "cyclonedx_py",
        "environment",
        "--pyproject",
        ROOT / "pyproject.toml",
        "-o",
        bill,
    ]
    run([*make, python], tmp_path)
    document = json.loads(bill.read_text())
    found = {part["name"].lower(): part["version"] for part in document["components"]}
    assert document["metadata"]["component"]["name"] == "fabmon"
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    wanted = {name: pinned[name] for name in ("msgspec", "psycopg", "uvicorn", "starlette", "aiohttp")}
    assert found.items() >= wanted.items()
    assert "pytest" not in found
