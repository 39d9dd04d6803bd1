"""Any value that a program can have becomes an event that a sidecar takes."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabmon.clock import now
from fabmon.sdk.events import check, event_of, metadata_of, numbers_of, text_of
from fabmon.wire.event import Entity
from fabmon.wire.ids import app_of

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=20,
)


class Scalar:
    """As numpy's scalars are."""

    def __float__(self) -> float:
        return 1.5


class Array:
    """As numpy's arrays are: there is a `__float__`, which raises."""

    def __float__(self) -> float:
        raise TypeError("only length-1 arrays can be converted")

    def __repr__(self) -> str:
        return "array([1, 2])"


@given(values=st.dictionaries(st.text(st.characters()), ANYTHING), name=st.text(st.characters(), max_size=700))
def test_any_metadata_and_any_name_are_taken(values: dict[str, Any], name: str) -> None:
    entity = Entity("job", app_of("x").app_id, business_key=text_of(name))
    app = app_of(text_of(name) or "unnamed")
    check(event_of("fab1", app, entity, "started", now(), metadata=metadata_of(values)))


@pytest.mark.parametrize("count", [1, 50, 3000])
def test_too_much_metadata_is_cut_and_says_so(count: int) -> None:
    metadata = metadata_of({f"name-{n}-{'x' * 60}": "\u00e9\n" * (100_000 // count) for n in range(count)})
    check(event_of("fab1", app_of("x"), Entity("job", app_of("x").app_id), "started", now(), metadata=metadata))
    assert metadata["metadata_cut"]


def test_numbers_of_any_type_and_nothing_else() -> None:
    numbers, left_out = numbers_of(
        {"a": 1, "b": Scalar(), "c": Decimal("2.5"), "d": True, "e": "3", "f": float("inf"), "g": None, "h": Array()}
    )
    assert numbers == {"a": 1.0, "b": 1.5, "c": 2.5, "d": 1.0}
    assert left_out == ["e", "f", "g", "h"]


def test_values_of_numpys_kind_in_metadata() -> None:
    assert metadata_of({"scalar": Scalar(), "array": Array(), "list": [Scalar()]}) == {
        "scalar": 1.5,
        "array": "array([1, 2])",
        "list": [1.5],
    }


def test_a_long_list_does_not_hold_the_job_up() -> None:
    assert metadata_of({"wafers": list(range(100_000))}) == {"wafers": "<list of 100000 items>"}


def test_text_is_cut_with_a_mark() -> None:
    assert text_of("x" * 500) == "x" * 500
    assert text_of("x" * 501) == "x" * 496 + " ..."
    assert text_of("a\0\udc80") == "a\N{REPLACEMENT CHARACTER}?"


def test_text_of_a_class_of_its_own_is_text() -> None:
    class Text(str):
        """As numpy's strings are, which have no JSON."""

        def __str__(self) -> str:
            return "another"

    assert type(text_of(Text("LOT-1"))) is str
    app, entity = app_of(text_of(Text("x"))), Entity("job", app_of("x").app_id, business_key=text_of(Text("LOT-1")))
    check(event_of("fab1", app, entity, "started", now()))
    assert text_of(Text("LOT-1")) == "LOT-1"
