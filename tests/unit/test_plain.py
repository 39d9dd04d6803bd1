"""What `fabmon run` writes without msgspec, uuid and datetime is what those would have written."""

import math
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabmon.clock import now
from fabmon.errors import SettingsError
from fabmon.sdk.address import read_address
from fabmon.sdk.events import new_key
from fabmon.wire import plain
from fabmon.wire.codec import ANY
from fabmon.wire.event import read_event
from fabmon.wire.ids import app_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAF = (
    TEXT | st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
)


@given(
    st.recursive(LEAF, lambda part: st.lists(part, max_size=4) | st.dictionaries(TEXT, part, max_size=4), max_leaves=8)
)
def test_json_is_read_as_what_was_written(value: Any) -> None:
    line = plain.encode(value)
    assert b"\n" not in line
    assert ANY.decode(line) == value


def test_text_that_is_no_utf_8_is_no_json() -> None:
    with pytest.raises(UnicodeEncodeError):
        plain.encode("\udc80")


@given(TEXT)
def test_the_id_of_a_name_is_the_one_that_other_front_doors_give(name: str) -> None:
    assert plain.id_of_name(name) == str(app_of(name).app_id)


def test_an_event_is_one_that_a_sidecar_takes() -> None:
    app = {"app_id": plain.id_of_name("x"), "name": "x", "version": None}
    entity = {"type": "job", "id": plain.new_id(), "parent_id": None, "business_key": None, "sub_key": None}
    metrics = {"duration_s": 1.5, "cpu_user_s": None}
    event = plain.event_of("fab1", app, entity, "finished", plain.at(), "succeeded", metrics, {"a": 1})
    read = read_event(plain.encode(event), now=now())
    assert read.event.metrics == {"duration_s": 1.5}
    assert abs((read.event.at - now()).total_seconds()) < 5


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_a_time_is_the_same_time(moment: datetime) -> None:
    read = datetime.fromisoformat(plain.at(math.floor(moment.timestamp())))
    assert read == moment.replace(microsecond=0)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://localhost:8000", (False, "localhost", 8000, "")),
        ("https://sidecar.fab", (True, "sidecar.fab", 443, "")),
        ("http://[::1]:80/a/b/", (False, "::1", 80, "/a/b")),
        ("http://10.0.0.1/", (False, "10.0.0.1", 80, "")),
    ],
)
def test_addresses(url: str, parts: tuple[bool, str, int, str]) -> None:
    address = read_address(url)
    assert (address.secure, address.host, address.port, address.path) == parts


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost", "ftp://x", "http://", "http://:80", "http://x:", "http://x:0x1", "http://x:99999", "http://x:123456",
        "http://[x]:1", "http://[::1", "http://[]", "http://a b", "http://x/?a", "http://x/#a", "http://u@x", "http://x\n",
        "http://x/\u00e9", "http://x:\u0664", "HTTP://x",
    ],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(SettingsError, match="the sidecar's URL is http://HOST:PORT"):
        read_address(url)


@pytest.mark.parametrize("make", [lambda: UUID(plain.new_id()), new_key], ids=["fabmon run", "SDK"])
def test_ids_that_are_made_together_lie_together(make: Callable[[], UUID]) -> None:
    before = time.time_ns() // 1_000_000
    made = [make() for _ in range(2000)]
    after = time.time_ns() // 1_000_000
    assert len(set(made)) == len(made)
    assert {(each.version, each.variant) for each in made} == {(7, uuid.RFC_4122)}
    assert all(before <= each.int >> 80 <= after for each in made)
