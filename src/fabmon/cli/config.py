"""`fabmon config`: the effective settings of a role, with where each comes from."""

import os
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fabmon.cli.serve import RoleName
from fabmon.settings import ROLES, effective


def config(role: Annotated[RoleName, typer.Option(help="Whose settings.")]) -> None:
    """Print the settings that `fabmon serve --role ROLE` would use here; secrets stay hidden."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("setting", "value", "from", "meaning"):
        table.add_column(name, overflow="fold")
    for setting in effective(ROLES[role], os.environ):
        source = (
            "default" if setting.source == "default" else setting.source.removeprefix(setting.variable) or "environment"
        )
        table.add_row(setting.variable, setting.value, source, setting.description)
    Console().print(table)
