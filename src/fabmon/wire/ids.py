"""Ids that come as text in a URL, and ids that follow from names, the same on every host."""

from collections.abc import Collection
from typing import Final
from uuid import UUID, uuid5

from fabmon.errors import BadParameter, UnknownSite
from fabmon.wire.event import App

APP_NAMESPACE: Final = UUID("7a3e51c4-0d5b-4f0c-9a51-6f1d0b8f2c11")


def read_uuid(name: str, value: str) -> UUID:
    """The UUID that the parameter *name* holds; raises BadParameter."""
    try:
        return UUID(value)
    except ValueError:
        raise BadParameter(name, f"{value[:60]!r} is no UUID") from None


def app_of(name: str, version: str | None = None) -> App:
    """The app of this name, for front doors that know no id; its id follows from the name alone."""
    return App(uuid5(APP_NAMESPACE, name), name, version)


def read_sites_asked(text: str, known: Collection[str]) -> list[str]:
    """The sites that `site=` asks for, each once: `*` or a comma list; raises BadParameter or UnknownSite."""
    if not text:
        raise BadParameter("site", f"required: *, or some of {', '.join(known) or '(no site is configured)'}")
    names = list(known) if text == "*" else list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise UnknownSite(f"site {name[:64]!r} is not configured; /v1/sites lists those that are")
    return names
