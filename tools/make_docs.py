"""Write the pages that are made from the code; tests/contract/test_documents.py fails when one is stale."""

import logging
import sys
from pathlib import Path

from fabmon.settings import ROLES, SECRETS, description, variable

_HEAD = """# Configuration

Made from `src/fabmon/settings.py` by `make docs`. Every setting is an environment variable; `--host`, `--port`,
`--data-dir`, `--allow-anonymous`, `--tls-cert`, `--tls-key` and `--tls-client-ca` are flags of `fabmon serve` too.
A name that begins with `FABMON_` and stands neither here nor among those of programs ([reporting](reporting.md)), or a
value out of bounds, stops the start.
`fabmon config --role ROLE` prints what is in force, and where each value comes from.

A secret may come from a file instead: put `_FILE` behind its name and the path as its value.
"""


def configuration() -> str:
    """The page as it should be."""
    parts = [_HEAD]
    for role, kind in ROLES.items():
        parts.append(f"\n## {role}\n\n| variable | default | meaning |\n|---|---|---|\n")
        for name in kind.__struct_fields__:
            default = getattr(kind(), name)
            shown = "" if default == "" else f"`{str(default).lower() if isinstance(default, bool) else default}`"
            secret = " (secret)" if name in SECRETS else ""
            parts.append(f"| `{variable(name)}` | {shown} | {description(kind, name)}{secret} |\n")
    return "".join(parts)


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    sys.path.insert(0, str(root))  # as a script it finds its own folder only
    from tools.api_page import api_page

    logging.disable()  # the roles that describe themselves have nobody to talk to, and say so
    docs = root / "docs"
    docs.joinpath("configuration.md").write_text(configuration(), encoding="utf-8")
    docs.joinpath("api.md").write_text(api_page(), encoding="utf-8")
