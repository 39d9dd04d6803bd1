"""JSON in and out. Decoders are made once; a request path never makes one."""

from typing import Any

import msgspec

encode = msgspec.json.Encoder(decimal_format="number").encode

# One array or object of a body, still undecoded: an event is judged by itself, and travels on as the bytes that came.
RAWS = msgspec.json.Decoder(list[msgspec.Raw])
ANY = msgspec.json.Decoder()


def decode_object(body: bytes | str) -> dict[str, Any] | None:
    """The JSON object in *body*, or None when it holds something else or no JSON at all."""
    try:
        value = ANY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
