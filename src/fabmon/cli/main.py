"""The command `fabmon`. One module per command group; `run` is found before anything heavy is imported."""

import errno
import io
import os
import sys


def main() -> None:
    """Run the command line; exit code 2 for a wrong setting, 1 for what cannot start."""
    if sys.argv[1:2] == ["run"]:
        # In front of every job of a fab: no more is imported than it needs.
        from fabmon.cli.run import run

        code = run(sys.argv[2:])
        os._exit(code)  # all is done and kept; to take the interpreter down would be a sixth of an empty program's time

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A key in another script than the terminal's is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    from fabmon.cli.app import app_for
    from fabmon.errors import FabmonError, SettingsError

    try:
        app_for(next(iter(sys.argv[1:]), None))()
    except SettingsError as error:
        sys.exit(_say(error, 2))
    except FabmonError as error:
        sys.exit(_say(error, 1))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO):  # of our output
            raise
        sys.exit(_say(error, 1))


def _say(error: Exception, code: int) -> int:
    print(f"fabmon: {error}", file=sys.stderr)
    return code
