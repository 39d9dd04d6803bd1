"""`python -m fabmon` is the command `fabmon`."""

from fabmon.cli.main import main

main()
