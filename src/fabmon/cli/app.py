"""The commands, put together."""

from typing import Annotated

import typer

from fabmon.cli import config, job, jobs, migrate, serve, spool, tail, token, up
from fabmon.version import __version__

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


app.command()(serve.serve)
app.command()(up.up)
app.command()(migrate.migrate)
app.command()(config.config)
app.command()(jobs.jobs)
app.command()(job.job)
app.command()(tail.tail)
app.add_typer(token.token, name="token")
app.add_typer(spool.app, name="spool")
