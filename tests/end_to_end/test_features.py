"""A frozen backbone read once gives what it gives when it is read at every step; a sweep reads it once for all."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
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


@pytest.mark.slow
def test_a_study_whose_trials_share_steps_has_the_table_of_one_that_runs_them_one_by_one(
    command: Command, outputs: Path
) -> None:
    # Points that do not depend on what came before; the last of them is of another shape.
    points = "enqueue=[{optimizer.lr: 1e-3, head.hidden: 8}, {optimizer.lr: 1e-2, head.hidden: 8}, "
    points += "{optimizer.lr: 3e-3, head.hidden: 8}, {optimizer.lr: 1e-3, head.hidden: 4}]"
    space = ["optimizer.lr=tag(log, interval(1e-4, 1e-1))", "head.hidden=choice(4,8)", f"sweep.{points}"]
    study = [*FROZEN, "head=gru", "augment=none", "features=cached", "sampler=random", "sweep.n_trials=4", *space]
    tables = []
    for name, fuse in (("apart", 1), ("shared", 3)):
        done = command("train.py", "-m", *study, f"sweep.name={name}", f"sweep.fuse={fuse}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "one by one" not in done.stdout
        tables.append(pd.read_csv(outputs / "sweeps" / name / "trials.csv"))
    apart, shared = ({name for name in table if is_timing(str(name).removeprefix("metrics."))} for table in tables)
    assert apart == shared
    one, other = (table.drop(columns=[*apart, "seconds", "run_id", "run_dir"], errors="ignore") for table in tables)
    pd.testing.assert_frame_equal(one, other, rtol=0, atol=1e-4)
    for job in "0123":
        folders = [outputs / "sweeps" / name / job for name in ("apart", "shared")]
        lines = [(folder / "metrics.json").read_text() for folder in folders]
        values = [json.loads(text)["metrics"] for text in lines]
        names = [name for name in values[0] if name.startswith(("val/", "test/"))]
        assert [values[1][name] for name in names] == pytest.approx([values[0][name] for name in names], abs=1e-4)


@pytest.mark.slow
def test_trials_that_are_trained_together_are_paused_and_promoted(command: Command, outputs: Path) -> None:
    study = [*FROZEN, "head=gru", "head.hidden=8", "augment=none", "features=cached", "sampler=random", "sweep.fuse=3"]
    study += ["optimizer.lr=tag(log, interval(1e-4, 1e-1))", "trainer.epochs=4", "pruner=promote", "sweep.name=rungs"]
    study += ["sweep.pruner.min_resource=1", "sweep.pruner.reduction_factor=2"]
    for budget in (6, 16):
        done = command("train.py", "-m", *study, f"sweep.budget={budget}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"of {budget} epochs" in done.stdout
    table = pd.read_csv(outputs / "sweeps" / "rungs" / "trials.csv")
    assert set(table["status"]) == {"completed", "paused"}
    with closing(sqlite3.connect(outputs / "mlflow.db")) as database:
        told = database.execute(
            "SELECT run_uuid, COUNT(*), COUNT(DISTINCT step) FROM metrics WHERE key='val/loss' GROUP BY 1"
        )
        counts = {run: (count, steps) for run, count, steps in told.fetchall()}
    # Each epoch was trained and told once, however often its trial was gone on with.
    assert [counts[row.run_id] for row in table.itertuples()] == [
        (row.epochs, row.epochs) for row in table.itertuples()
    ]
