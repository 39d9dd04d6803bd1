"""The commands, put together."""

from importlib import import_module
from typing import Annotated, Final

import typer

from fabmon.version import __version__

# In the order of `fabmon --help`; each stands in the module of its name.
_COMMANDS: Final = ("serve", "up", "migrate", "config", "jobs", "job", "tail")
_GROUPS: Final = ("token", "spool")

app = typer.Typer(
    name="fabmon",
    help="Monitoring for the batch jobs of semiconductor fabs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def fabmon(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version)] = False,
) -> None:
    pass


@app.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
def run(arguments: list[str]) -> None:
    """Run any program as a job: fabmon run --app NAME -- COMMAND. See `fabmon run --help`."""
    # For `fabmon --help` only: main() finds `run` before typer is imported.
    from fabmon.cli.run import run as run_command

    raise typer.Exit(run_command(arguments))


def app_for(wanted: str | None) -> typer.Typer:
    """The application with the command *wanted*, or with all of them where there is none of that name.

    A command brings what it needs: `fabmon jobs` waits for no database driver.
    """
    one = [wanted] if wanted in (*_COMMANDS, *_GROUPS) else (*_COMMANDS, *_GROUPS)
    for name in one:
        module = import_module(f"fabmon.cli.{name}")
        if name in _GROUPS:
            app.add_typer(module.app, name=name)
        else:
            app.command()(getattr(module, name))
    return app
