"""What a role hands to the process that runs it."""

from collections.abc import Callable

import msgspec
from starlette.types import ASGIApp


class Role(msgspec.Struct, frozen=True):
    """An application, and what must be told when it stops: streams that would never end by themselves."""

    app: ASGIApp
    stop_streams: Callable[[], None] = lambda: None
