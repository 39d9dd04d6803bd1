"""Ids that come as text in a URL."""

from uuid import UUID

from fabmon.errors import BadParameter


def read_uuid(name: str, value: str) -> UUID:
    """The UUID that the parameter *name* holds; raises BadParameter."""
    try:
        return UUID(value)
    except ValueError:
        raise BadParameter(name, f"{value[:60]!r} is no UUID") from None
