"""The SQL files: queries by name, migrations and routines in order.

They travel in the wheel as `fabmon/sql`; in a checkout they are the folder `sql` at its root.
"""

import re
from functools import cache
from pathlib import Path

_HEAD = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def sql_root() -> Path:
    packaged = Path(__file__).parents[1] / "sql"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "sql"


@cache
def query(name: str) -> bytes:
    """The text of the query *name*, without its comments' head."""
    return _queries()[name]


@cache
def _queries() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in sorted((sql_root() / "queries").glob("*.sql")):
        parts = _HEAD.split(path.read_text(encoding="utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in found:
                raise ValueError(f"the query {name} is defined twice")
            statement = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
            found[name] = statement.strip().rstrip(";").encode()
    return found
