"""What every benchmark shares: a database with fsync on, a real role, the last line, the result page."""

import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg
from psycopg.conninfo import make_conninfo
from tests.fixtures.roles import Service, free_port

ROOT = Path(__file__).parents[1]
_DURABLE = ("fsync", "full_page_writes")  # off in the tests, whose database may be lost


class Result(msgspec.Struct):
    """The last line of a benchmark: *ratio* is ours to the limit, in *unit*."""

    name: str
    ours: float
    limit: float
    ratio: float
    unit: str


def result(name: str, ours: float, limit: float, unit: str) -> Result:
    return Result(name, round(ours, 4), round(limit, 4), round(ours / limit, 3), unit)


@contextmanager
def database(name: str = "bench") -> Iterator[str]:
    """A migrated database on the server at FABMON_TEST_DATABASE_URL, which is durable while this is open."""
    server = os.environ["FABMON_TEST_DATABASE_URL"]
    name = f"fabmon_{name}_{os.getpid()}"
    with psycopg.connect(server, autocommit=True) as connection:
        for setting in _DURABLE:
            connection.execute(f"alter system set {setting} = on".encode())
        connection.execute("select pg_reload_conf()")
        connection.execute(f"drop database if exists {name} with (force)".encode())
        connection.execute(f"create database {name}".encode())
        url = make_conninfo(server, dbname=name)
        environment = {**_clean(), "FABMON_DATABASE_URL": url}
        subprocess.run([ROOT / ".venv/bin/fabmon", "migrate"], env=environment, check=True, stdout=subprocess.DEVNULL)
        try:
            yield url
        finally:
            connection.execute(f"drop database if exists {name} with (force)".encode())
            for setting in _DURABLE:
                connection.execute(f"alter system reset {setting}".encode())
            connection.execute("select pg_reload_conf()")


@contextmanager
def role(name: str, **environment: str) -> Iterator[Service]:
    """A real `fabmon serve` process."""
    with tempfile.TemporaryDirectory(prefix="fabmon-bench-") as directory:
        place = Path(directory)
        service = Service(name, {"FABMON_DATA_DIR": directory, **environment}, free_port(), place / "log").start(
            "/livez"
        )
        try:
            yield service
        finally:
            service.stop()


def finish(results: Sequence[Result], settings: str, table: str, name: str = "") -> None:
    """Print the table and, last, the results; add a page under benchmarks/results, named as the first unless told."""
    print(table)
    name = name or results[0].name
    lines = "\n".join(msgspec.json.encode(each).decode() for each in results)
    page = ROOT / "benchmarks" / "results" / f"{datetime.now(UTC):%Y-%m-%d}-{name}.md"
    page.write_text(f"# {name}\n\n{_machine()}\n\n{settings}\n\n```\n{table}\n```\n\n```json\n{lines}\n```\n")
    print(lines)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table_of(rates: Mapping[str, Sequence[float]], unit: str) -> str:
    """One line for each: its median and every round."""
    return "\n".join(
        f"{name:20} {median(values):9,.0f} {unit}   {' '.join(f'{value:,.0f}' for value in values)}"
        for name, values in rates.items()
    )


def _machine() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip()}, {os.cpu_count()} cores, "
        f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}; load generator, server and "
        "database share the cores."
    )


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("FABMON_")}
