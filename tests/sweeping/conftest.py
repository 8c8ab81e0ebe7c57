"""What the tests of sweeps share."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.sweeping.study_plan import StudyPlan
from tests.sweeping import toy


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies end without their figures, whose drawing takes longer than all else."""
    monkeypatch.setattr("deepfake.sweeping.runner.draw_study", lambda *_: [])


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    """Two random trials, each tried once more where its process dies."""
    return toy.make_plan(tmp_path, retries=1)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, without making them."""
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("deepfake.sweeping.outage.time.sleep", sleep)
    monkeypatch.setattr("deepfake.sweeping.outage.time.monotonic", lambda: now[0])
    return pauses
