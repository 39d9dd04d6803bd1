"""`fabmon config`: the effective settings of a role, with where each comes from."""

import json
import os
from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from fabmon.cli.screen import screen
from fabmon.cli.serve import RoleName
from fabmon.settings import ROLES, SECRETS, Settings, description, gather, load, variable

# The settings that may be left empty for a place beside the others, and what says which that is.
_PLACES: Final = {"data_dir": "data_path", "spool_dir": "spool_path", "unsent_dirs": "unsent_paths"}


class _Setting(msgspec.Struct, frozen=True):
    setting: str
    value: str
    source: str
    meaning: str


def config(
    role: Annotated[RoleName, typer.Option(help="Whose settings.")],
    as_json: Annotated[bool, typer.Option("--json", help="The settings as a JSON array.")] = False,
) -> None:
    """Print the settings that `fabmon serve --role ROLE` would use here; secrets stay hidden."""
    effective = _effective(ROLES[role])
    if as_json:
        print(json.dumps(msgspec.to_builtins(effective), indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("setting", no_wrap=True)  # a name that is cut in two can be neither copied nor searched for
    table.add_column("value", overflow="fold")
    table.add_column("from", no_wrap=True)
    table.add_column("meaning", overflow="fold")
    for each in effective:
        table.add_row(each.setting, Text(each.value), each.source, Text(each.meaning))
    screen().print(table)


def _effective(kind: type[Settings]) -> list[_Setting]:
    settings = load(kind, os.environ)
    _, names = gather(kind, os.environ, {})
    return [
        _Setting(
            setting=variable(name),
            value=_value(settings, name),
            source="environment" if names.get(name) == variable(name) else names.get(name, "default"),
            meaning=description(kind, name),
        )
        for name in kind.__struct_fields__
    ]


def _value(settings: Settings, name: str) -> str:
    """As it is in force: where a place was left empty, the place."""
    value = getattr(settings, name)
    if name in SECRETS:
        return "(hidden)" if value else ""
    if name not in _PLACES:
        return str(value)
    found = getattr(settings, _PLACES[name])
    return ",".join(map(str, found)) if isinstance(found, list) else str(found)
