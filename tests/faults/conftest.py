"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def tell(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[int], None]:
    """Print how many inputs a test gave, past the capture."""

    def told(count: int) -> None:
        with capsys.disabled():
            print(f"\n{request.node.name}: {count} inputs, 0 crashes", end="")

    return told
