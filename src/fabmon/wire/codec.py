"""JSON in and out. Decoders are made once; a request path never makes one."""

import re
from functools import cache
from typing import Any, Final

import msgspec

encode = msgspec.json.Encoder(decimal_format="number").encode

# One array or object of a body, still undecoded: an event is judged by itself, and travels on as the bytes that came.
RAWS = msgspec.json.Decoder(list[msgspec.Raw])
ANY = msgspec.json.Decoder()

# So many commas for each element that is allowed cost little memory as objects.
_FEW: Final = 10
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKET: Final = re.compile(rb"[^][{}]+")
_ONE_KIND: Final = bytes.maketrans(b"[]", b"{}")


def decode_object(body: bytes | str) -> dict[str, Any] | None:
    """The JSON object in *body*, or None when it holds something else or no JSON at all."""
    try:
        value = ANY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def holds_more(body: bytes, count: int) -> bool:
    """Whether *body* is an array of more than *count* elements, found out before each of millions becomes an object."""
    if len(body) < _FEW * count or body.count(b",") < _FEW * count:  # the length alone decides for nearly all
        return False
    try:
        _at_most(count).decode(body)
    except msgspec.ValidationError as error:
        return "of at most" in str(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # said by who decodes it
    return False


@cache
def _at_most(count: int) -> msgspec.json.Decoder[Any]:
    """Stops at the first element too many, which a list of a greatest length does not."""
    fields = [(f"element_{number}", msgspec.Raw, msgspec.Raw()) for number in range(count)]
    return msgspec.json.Decoder(msgspec.defstruct("AtMost", fields, array_like=True, forbid_unknown_fields=True))


def is_deeper(raw: bytes, levels: int) -> bool:
    """Whether *raw*, valid JSON, is nested deeper than *levels*, fields that we ignore included.

    Without its strings and values only brackets are left, and each turn takes away the innermost level.
    """
    brackets = _NO_BRACKET.sub(b"", _STRING.sub(b"", raw)).translate(_ONE_KIND)
    for _ in range(levels):
        brackets = brackets.replace(b"{}", b"")
        if not brackets:
            return False
    return True
