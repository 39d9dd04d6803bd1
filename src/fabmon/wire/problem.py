"""An error as it crosses the wire: RFC 9457 `application/problem+json`, with a stable `code`."""

from typing import Final

import msgspec

CONTENT_TYPE: Final = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    parameter: str = ""
    retry_after_s: float | msgspec.UnsetType = msgspec.UNSET
