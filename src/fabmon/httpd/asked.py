"""A query string as names and values: each given once, of a sane length, without NUL."""

from collections.abc import Sequence
from typing import Final

from fabmon.errors import BadParameter

LONGEST_QUERY: Final = 16 * 1024


def read_once(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Each parameter with its value; raises BadParameter for one that is given twice, too long or holds NUL."""
    given: dict[str, str] = {}
    if sum(len(name) + len(value) for name, value in pairs) > LONGEST_QUERY:
        raise BadParameter("query string", f"at most {LONGEST_QUERY} characters")
    for name, value in pairs:
        if name in given:
            raise BadParameter(name[:60], "given twice")
        if "\0" in name or "\0" in value:
            raise BadParameter(name[:60].replace("\0", "?"), "holds the character NUL")
        given[name] = value
    return given
