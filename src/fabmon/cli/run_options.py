"""The options of `fabmon run`. Read by hand: argparse alone takes half as long to import as the whole run may take."""

from __future__ import annotations

import os
import sys

from fabmon.errors import SettingsError
from fabmon.sdk.address import DEFAULT_SITE_ID, DEFAULT_URL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

HELP: Final = f"""\
usage: fabmon run [options] -- COMMAND [ARGUMENT ...]

Run any program as a job: its start, end, duration, CPU, peak memory and exit code are reported.

  --app NAME         the application that the job belongs to; default FABMON_APP, else the command's name
  --app-version V    its version
  --key K            the job's business key, such as a lot
  --parent ID        report a subjob of this job; inside a job: --parent "$FABMON_JOB_ID"
  --meta a=b [c=d]   metadata, as often as needed
  --with-arguments   report the arguments too; by default not: they may be secret
  --no-stderr        do not report the end of stderr when the program has failed, and leave stderr alone
  --wait             send the report before the end, for at most 2 s: for a script in a container, which ends all it leaves
  --url URL          the sidecar; default FABMON_URL or {DEFAULT_URL}
  --site ID          this site; default FABMON_SITE_ID or {DEFAULT_SITE_ID}; must be the sidecar's

The program's output, exit code and signals pass through. A sidecar that is away changes nothing: the report is kept on
disk and sent later. The program finds FABMON_JOB_ID, FABMON_APP and FABMON_URL in its environment, and may write lines
such as `progress 0.5` and `metric wafers=25` to the file descriptor FABMON_EVENTS_FD.
"""
_WITH_VALUE: Final = ("--app", "--app-version", "--key", "--parent", "--url", "--site")
_WITHOUT_VALUE: Final = ("--with-arguments", "--no-stderr", "--wait")


class Options:
    """What was asked for; None where nothing was said and nothing is assumed."""

    app: str
    url: str
    site: str

    def __init__(self) -> None:
        self.app_version: str | None = None
        self.key: str | None = None
        self.parent: str | None = None
        self.meta: list[str] = []
        self.with_arguments = self.no_stderr = self.wait = False
        self.command: list[str] = []


def read_options(arguments: list[str]) -> Options:
    """The options and the command in *arguments*; prints the help if that is asked for. Raises SettingsError."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    given, options = arguments[:split], Options()
    if "-h" in given or "--help" in given:
        sys.stdout.write(HELP)
        raise SystemExit(0)
    values: dict[str, str | None] = {}
    while given:
        name, is_assigned, value = given.pop(0).partition("=")
        if name == "--meta":
            options.meta += [value] if is_assigned else [_value(name, given)]
            while not is_assigned and given and not given[0].startswith("--"):
                options.meta.append(given.pop(0))
        elif name in _WITH_VALUE:
            values[name] = value if is_assigned else _value(name, given)
        elif name in _WITHOUT_VALUE and not is_assigned:
            setattr(options, name[2:].replace("-", "_"), True)
        else:
            raise SettingsError(f"unrecognized arguments: {name[:100]}; the command stands behind `--`")
    options.command = arguments[split + 1 :]
    if not options.command:
        raise SettingsError("the command is missing; it stands behind `--`: fabmon run --app NAME -- COMMAND ...")
    options.app_version, options.key = values.get("--app-version"), values.get("--key")
    options.parent = values.get("--parent")
    app = values.get("--app")
    name_of_command = options.command[0].rstrip("/").rpartition("/")[2] or "program"
    options.app = (os.environ.get("FABMON_APP") or name_of_command) if app is None else app
    options.url = values.get("--url") or os.environ.get("FABMON_URL") or DEFAULT_URL
    options.site = values.get("--site") or os.environ.get("FABMON_SITE_ID") or DEFAULT_SITE_ID
    return options


def _value(name: str, given: list[str]) -> str:
    if not given or given[0].startswith("--"):
        raise SettingsError(f"argument {name}: expected one argument")
    return given.pop(0)
