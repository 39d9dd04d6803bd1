"""What the tests of reporting share: a sidecar that only takes events, and an environment without settings of ours."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.programs import clean_environment
from tests.fixtures.stub_sidecar import Sidecar


@pytest.fixture
def sidecar() -> Iterator[Sidecar]:
    with Sidecar().serving() as serving:
        yield serving


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a job whose data directory is *tmp_path*."""
    return clean_environment(tmp_path)
