"""A frozen backbone read once gives what it gives when it is read at every step; a sweep reads it once for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepfake.tracking.reproducibility import is_timing
from tests.end_to_end.conftest import SMALL, Command
from tests.end_to_end.using import Here

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
def test_cached_runs_in_16_bits_end_with_the_numbers_of_evaluate(command: Command, outputs: Path, here: Here) -> None:
    small = [text for text in FROZEN if not text.startswith("head.")]
    heads = "head=mean,lstm,gru,vit,convlstm"
    to = f"hydra.sweep.dir={outputs}/short"
    done = command("train.py", "-m", *small, "augment=none", "features=cached", "trainer.precision=bf16", heads, to)
    assert done.returncode == 0, done.stdout + done.stderr
    for job in "01234":
        run = outputs / "short" / job
        assert here("evaluate", str(run)).status in (0, 3)
        logged, evaluated = (
            json.loads(file.read_text())["metrics"] for file in (run / "metrics.json", run / "eval/demo/metrics.json")
        )
        names = [name for name in logged if name.startswith("test/") and name.removeprefix("test/") in evaluated]
        assert {"test/roc_auc", "test/log_loss", "test/log_loss_calibrated"} <= set(names)
        wanted = [evaluated[name.removeprefix("test/")] for name in names]
        assert [logged[name] for name in names] == pytest.approx(wanted, abs=1e-5), job


@pytest.mark.slow
def test_a_sweep_with_two_workers_computes_once(command: Command, outputs: Path) -> None:
    study = ["sweep.name=cached", "sweep.n_trials=3", "sweep.n_jobs=2", "optimizer.lr=tag(log, interval(1e-3, 1e-2))"]
    # A seed, and so a random backbone, of its own: no other test's features may lie there already.
    done = command("train.py", "-m", *FROZEN, "seed=5", "features=cached", "features.views=2", *study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs compared" in done.stdout
    said = "".join(path.read_text() for path in (outputs / "sweeps" / "cached" / "workers").iterdir())
    # One file for validation and test, one for the views of training clips.
    assert said.count("features: computed once") == 2, said
