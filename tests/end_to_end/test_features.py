"""A frozen backbone read once gives what it gives when it is read at every step; a sweep reads it once for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepfake.tracking.verdict import is_timing
from tests.end_to_end.conftest import SMALL, Command

FROZEN = [*SMALL, "backbone.freeze=true", "trainer.epochs=2"]


def test_cached_and_uncached_runs_give_the_same_metrics(command: Command, outputs: Path) -> None:
    done = command("train.py", "-m", *FROZEN, "augment=none", "features=none,cached", f"hydra.sweep.dir={outputs}/both")
    assert done.returncode == 0, done.stderr
    assert "features: computed once" in done.stdout
    plain, cached = (json.loads((outputs / "both" / job / "metrics.json").read_text())["metrics"] for job in "01")
    wanted, found = (
        {name: value for name, value in metrics.items() if not is_timing(name)} for metrics in (plain, cached)
    )
    assert found == pytest.approx(wanted, abs=1e-5, nan_ok=True)


@pytest.mark.slow
def test_a_sweep_with_two_workers_computes_once(command: Command, outputs: Path) -> None:
    study = ["sweep.name=cached", "sweep.n_trials=3", "sweep.n_jobs=2", "optimizer.lr=tag(log, interval(1e-3, 1e-2))"]
    done = command("train.py", "-m", *FROZEN, "features=cached", "features.views=2", *study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs compared" in done.stdout
    said = "".join(path.read_text() for path in (outputs / "sweeps" / "cached" / "workers").iterdir())
    # One file for validation and test, one for the views of training clips.
    assert said.count("features: computed once") == 2, said
