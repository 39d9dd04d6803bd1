"""Work beside a context ends with it, and takes it along when it fails."""

import asyncio

import pytest

from fabmon.errors import StoreUnavailable
from fabmon.run import first_cause
from fabmon.tasks import beside


async def test_work_ends_with_its_context() -> None:
    ended = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(name)

    with pytest.raises(BaseExceptionGroup) as caught:
        async with beside("first", work("first")), beside("second", work("second")):
            await asyncio.sleep(0)
            raise KeyError("the body's")
    assert (ended, type(first_cause(caught.value))) == (["second", "first"], KeyError)


async def test_work_that_fails_ends_its_context_with_its_own_error() -> None:
    async def fail() -> None:
        raise StoreUnavailable("gone")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with beside("well", asyncio.sleep(60)), beside("fails", fail()):
            await asyncio.sleep(60)
    assert str(first_cause(caught.value)) == "gone"
