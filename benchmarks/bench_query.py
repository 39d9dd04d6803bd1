"""query: pages of a list over HTTP, at a million jobs, against the same SQL run bare by psycopg; and the CSV export.

All questions are asked in turn by both sides, on connections that are kept; the first rounds warm up and are left out. An
argument is another number of jobs, 100,000 at least; its page is named after it.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row

from benchmarks.bench import Result, database, finish, median, percentile, result, role
from benchmarks.fill import fill
from fabmon.query.params import read_selection
from fabmon.store.named import query
from fabmon.store.pool import connection_string
from fabmon.store.selection import Selection, export_sql, is_one_of, page_sql

JOBS = 1_000_000
ROUNDS, WARM = 100, 20
DEEP_PAGE = 1000
QUESTIONS = {
    "first page": "limit=100",
    "deep page": "limit=100",
    "status": "limit=100&status=failed",
    "app_name": "limit=100&app_name=application-7",
    "metadata": "limit=100&metadata.recipe=R-77",
    "key": "limit=100&key=LOT-777",
    "1,000 rows": "limit=1000",
}


def main(jobs: int) -> None:
    with (
        database() as url,
        role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1") as local,
        psycopg.connect(connection_string(url), autocommit=True, row_factory=dict_row) as bare,
    ):
        fill(url, jobs)
        http = HTTPConnection("127.0.0.1", local.port)
        lines, results = [], []
        asked = dict(QUESTIONS)
        asked["deep page"] += f"&cursor={_cursor(http)}"
        taken = _in_turn({name: (partial(_get, http, each), partial(_run, bare, each)) for name, each in asked.items()})
        for name, (ours, limit) in taken.items():
            results.append(result(f"query {name}", percentile(ours, 0.95), percentile(limit, 0.95), "ms p95"))
            lines.append(
                f"{name:12} p50 {median(ours):6.2f} ms against {median(limit):6.2f},"
                f" p95 {percentile(ours, 0.95):6.2f} against {percentile(limit, 0.95):6.2f}"
            )
        worst = max(results, key=lambda each: each.ratio)
        results.insert(0, result("query", worst.ours, worst.limit, f"ms p95, of the worst question: {worst.name}"))
        (deep, _), (first, _) = taken["deep page"], taken["first page"]
        lines.append(f"deep page to first: p50 {median(deep) / median(first):.2f}")
        results.append(result("query_deep_to_first", percentile(deep, 0.95), percentile(first, 0.95), "ms p95"))
        results.append(_export(local.port, bare, jobs, lines))
    settings = f"{jobs:,} jobs; {ROUNDS} rounds of each question after {WARM}; the deep page is page {DEEP_PAGE}."
    finish(results, settings, "\n".join(lines), "query" if jobs == JOBS else f"query_{jobs}")


def _in_turn(
    questions: dict[str, tuple[Callable[[], object], Callable[[], object]]],
) -> dict[str, tuple[list[float], list[float]]]:
    """Milliseconds of each question by both sides, all in turn in each round."""
    taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in questions}
    for _ in range(WARM + ROUNDS):
        for name, sides in questions.items():
            for side, work in zip(taken[name], sides, strict=True):
                begun = time.perf_counter()
                work()
                side.append((time.perf_counter() - begun) * 1e3)
    return {name: (ours[WARM:], limit[WARM:]) for name, (ours, limit) in taken.items()}


def _get(http: HTTPConnection, question: str) -> bytes:
    http.request("GET", f"/v1/jobs?{question}")
    response = http.getresponse()
    body = response.read()
    assert response.status == 200, body
    return body


def _lines(http: HTTPConnection, question: str) -> int:
    """How many lines the answer has, without keeping them."""
    http.request("GET", f"/v1/jobs?{question}")
    response = http.getresponse()
    assert response.status == 200
    return sum(block.count(b"\n") for block in iter(partial(response.read, 1 << 20), b""))


def _run(bare: psycopg.Connection[dict[str, Any]], question: str) -> object:
    """Every statement that the question takes: "contains" first finds the names that do (store/jobs.py)."""
    pairs = [(name, value) for name, _, value in (part.partition("=") for part in question.split("&"))]
    selection = read_selection("job", pairs, 900)
    if "app_name" in question:
        (contains,) = selection.conditions
        found = bare.execute(query("job_names"), {**contains.values, "wanted": True}).fetchall()
        named = is_one_of("app_name", [row["app_name"] for row in found])
        selection = Selection(entity_type="job", conditions=(named,), limit=selection.limit)
    text, values = page_sql(selection)
    return bare.execute(text, values).fetchall()


def _cursor(http: HTTPConnection) -> str:
    """Where page 1,000 begins, reached by paging as a reader would."""
    cursor = ""
    for _ in range(DEEP_PAGE * 100 // 10_000):
        page = msgspec.json.decode(_get(http, "limit=10000" + (f"&cursor={cursor}" if cursor else "")))
        cursor = page["next_cursor"]
        assert cursor, "too few jobs for a deep page"
    return cursor


def _export(port: int, bare: psycopg.Connection[dict[str, Any]], jobs: int, lines: list[str]) -> Result:
    """All jobs as CSV, over HTTP and by COPY of the same columns."""
    rates: tuple[list[float], list[float]] = ([], [])
    text, _ = export_sql(Selection(entity_type="job"), "csv")
    bare.execute("set statement_timeout = '1h'")  # as local does for an export
    for _ in range(3):
        begun = time.perf_counter()
        assert _lines(HTTPConnection("127.0.0.1", port), "format=csv") == jobs + 1
        rates[0].append(jobs / (time.perf_counter() - begun))
        begun = time.perf_counter()
        with bare.cursor() as cursor, cursor.copy(text) as copy:
            size = sum(len(block) for block in copy)
        rates[1].append(jobs / (time.perf_counter() - begun))
        assert size > jobs
    ours, limit = median(rates[0]), median(rates[1])
    lines.append(f"{'export':12} {ours:9,.0f} rows/s against {limit:9,.0f}")
    return result("export", ours, limit, "rows/s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else JOBS)
