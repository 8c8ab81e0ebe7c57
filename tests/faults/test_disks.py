"""A disk that is full while something is written to it: told, nothing half-written, and gone on with to the same end.

The disk is filled at the stage's own call, so that each stage is met; a sweep over sizes meets those in between.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from deepfake.tracking.reproducibility import is_timing
from tests.faults.conftest import Disk
from tests.forked import Ended, Fault, Forks

pytestmark = pytest.mark.slow

TINY = [
    "demo.people=8",
    "demo.seconds=0.5",
    "demo.size=48",
    "dataset.size=32",
    "dataset.frames=4",
    "dataset.clips=1",
    "trainer.epochs=3",
    "trainer.batch_size=8",
    "head.hidden=16",
    "tracking.system_metrics=false",
    "name=full",
]
TRAIN = ["train", *TINY]
FROZEN = ["backbone.freeze=true", "features=cached", "augment=none"]
STUDY = [
    "train", "-m", *TINY, "trainer.epochs=1", "optimizer.lr=tag(log, interval(1e-4,1e-2))",
    "sweep.n_trials=3", "sweep.name=full", "sampler=random", "tracking.log_model=false",
]  # fmt: skip

#: By stage: the call at which the disk is filled, at which of them, and the bytes that are left.
STAGES = {
    "demo": ("deepfake.data.demo:write_video", 4, 0),
    "demo, half a video": ("deepfake.data.demo:write_video", 9, 8192),
    "demo, splits": ("deepfake.data.demo:_write_splits", 1, 0),
    "database": ("deepfake.tracking.store:_make", 1, 0),
    "database, half": ("deepfake.tracking.store:_make", 1, 300_000),
    "database, moved": ("deepfake.tracking.store:_let_go", 1, 0),
    "experiment": ("deepfake.tracking.store:experiment_id", 1, 0),
    "crops": ("deepfake.data.prepare:prepare_jobs", 1, 0),
    "crops, half": ("deepfake.data.prepare:prepare_jobs", 1, 100_000),
    "inputs": ("deepfake.tracking.run_folder:RunFolder.write_manifest", 1, 0),
    "inputs, provenance": ("deepfake.tracking.run_folder:RunFolder.write_provenance", 1, 0),
    "parameters": ("deepfake.tracking.logger:TrackedRun.params", 1, 0),
    "metrics": ("deepfake.tracking.logger:TrackedRun.epoch", 1, 0),
    "metrics, later": ("deepfake.tracking.logger:TrackedRun.epoch", 2, 0),
    "checkpoint": ("deepfake.training.checkpoint:save_state", 1, 0),
    "checkpoint, half": ("deepfake.training.checkpoint:save_state", 2, 20_000),
    "best weights": ("deepfake.training.checkpoint:save_weights", 1, 0),
    "best weights, half": ("deepfake.training.checkpoint:save_weights", 1, 20_000),
    "predictions": ("deepfake.tracking.run_folder:RunFolder.write_predictions", 1, 0),
    "metrics.json": ("deepfake.tracking.run_folder:RunFolder.write_metrics", 1, 0),
    "figures": ("deepfake.tracking.figures:draw_run", 1, 0),
    "figures, half": ("deepfake.tracking.figures:draw_run", 1, 40_000),
    "artifacts": ("deepfake.tracking.delivery:Delivery._file", 3, 0),
    "model": ("deepfake.tracking.delivery:Delivery._model", 1, 0),
    "ending": ("deepfake.tracking.logger:TrackedRun.ended", 1, 0),
}
SAMPLE = ("experiment", "crops, half", "checkpoint, half")
#: As many bytes as everything but a run's reserve needs, and some: the disk is full where it is filled only.
ROOM = 400


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a run that nothing happened to."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    done = forks(*TRAIN, outputs=outputs)
    assert done.status == 0, done.text
    return outputs


def only_run(outputs: Path) -> Path:
    (folder,) = (outputs / "runs").glob("*")
    return folder


def values(folder: Path) -> dict[str, float]:
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    return {name: value for name, value in metrics.items() if not is_timing(name)}


def leftovers(outputs: Path) -> list[str]:
    """Files that are neither locks nor whole."""
    hidden = re.compile(r"\.partial|^\.[0-9a-f]{8}\.|^\..+\.[0-9a-f]{8,32}$|\.tmp$")
    return [str(path) for path in outputs.rglob("*") if hidden.search(path.name)]


def check_whole(outputs: Path) -> None:
    """Whatever is there under its own name is whole."""
    for database in outputs.rglob("*.db"):
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for weights in outputs.rglob("best.safetensors"):
        load_file(weights)
    for table in outputs.rglob("*.parquet"):
        pd.read_parquet(table)
    for file in [*outputs.rglob("*.json")]:
        json.loads(file.read_text())
    for journal in outputs.rglob("*.journal"):
        assert all(json.loads(line) for line in journal.read_text().splitlines())
    states = list(outputs.rglob("last.pt"))
    if states:
        from deepfake.training.checkpoint import load_state

        for state in states:
            load_state(state)
    assert leftovers(outputs) == []


def query(outputs: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(outputs / "mlflow.db")) as connection:
        return connection.execute(statement).fetchall()


def go_on(forks: Forks, outputs: Path, words: list[str]) -> Ended:
    """What a user does once there is room: resume the run where it has begun, else type the same again."""
    for folder in (outputs / "runs").glob("*"):
        if (folder / "resolved.yaml").is_file() and (folder / "provenance.json").is_file():
            return forks("train", f"resume={folder}", outputs=outputs)
    return forks(*words, outputs=outputs)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_whose_disk_is_full(stage: str, full: bool, forks: Forks, disk: Disk, undisturbed: Path) -> None:
    if not full and stage not in SAMPLE:
        pytest.skip("only with --full")
    at, call, left = STAGES[stage]
    place = disk(ROOM)
    outputs, filler = place / "outputs", place / "filler"
    stopped = forks(*TRAIN, outputs=outputs, faults=[Fault(at, "fill", str(filler), left, call)])
    assert "FAULT fill" in stopped.text, stopped.text
    assert "Traceback" not in stopped.text, stopped.text
    assert stopped.is_told, stopped.text
    assert str(place) in stopped.text[stopped.text.index("error:") :], stopped.text
    check_whole(outputs)
    filler.unlink()
    done = go_on(forks, outputs, TRAIN)
    assert done.status == 0, done.text
    check_whole(outputs)
    finished = [folder for folder in (outputs / "runs").glob("*") if (folder / "metrics.json").is_file()]
    assert len(finished) == 1
    assert values(finished[0]) == values(only_run(undisturbed))
    tables = [pd.read_parquet(folder / "predictions.parquet") for folder in (only_run(undisturbed), finished[0])]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert query(outputs, "SELECT COUNT(*) FROM runs WHERE status = 'RUNNING'") == [(0,)]
    assert query(outputs, "SELECT DISTINCT step FROM metrics WHERE key = 'val/roc_auc' ORDER BY step") == [
        *query(undisturbed, "SELECT DISTINCT step FROM metrics WHERE key = 'val/roc_auc' ORDER BY step")
    ]
    print(f"disk full: {stage}: 1, lost: 0")


@pytest.mark.parametrize("megabytes", [0.1, 0.5, 1, 2, 4, 8, 16, 32, 64])
def test_a_disk_of_any_size(megabytes: float, full: bool, forks: Forks, disk: Disk) -> None:
    if not full:
        pytest.skip("only with --full")
    place = disk(megabytes)
    first, second = (forks(*TRAIN, outputs=place) for _ in range(2))
    for stopped in (first, second):
        assert stopped.is_told, stopped.text
    check_whole(place)
    subprocess.run(["mount", "-o", "remount,size=400m", place], check=True)
    done = forks(*TRAIN, outputs=place)
    assert done.status == 0, done.text
    assert query(place, "SELECT COUNT(*) FROM runs WHERE status = 'RUNNING'") == [(0,)]


@pytest.mark.parametrize("left", [0, 100_000])
def test_features_without_room_are_computed_as_they_are_needed(left: int, full: bool, forks: Forks, disk: Disk) -> None:
    if not full:
        pytest.skip("only with --full")
    place = disk(ROOM)
    outputs, filler = place / "outputs", place / "filler"
    at = "deepfake.training.features.feature_store:_check_room"
    fault = Fault(at, "fill", str(filler), left, after=True)
    stopped = forks(*TRAIN, *FROZEN, outputs=outputs, faults=[fault])
    assert "FAULT fill" in stopped.text
    assert "Traceback" not in stopped.text, stopped.text
    assert stopped.is_told, stopped.text
    check_whole(outputs)
    filler.unlink()
    done = go_on(forks, outputs, [*TRAIN, *FROZEN])
    assert done.status == 0, done.text
    check_whole(outputs)


STUDY_STAGES = {
    "journal": ("deepfake.sweeping.claims:Claims.finish", 1, "journal"),
    "journal, a report": ("deepfake.sweeping.claims:Claims.report", 2, "journal"),
    "journal, opened": ("deepfake.sweeping.study:Study._open", 1, "journal"),
    "sqlite": ("deepfake.sweeping.claims:Claims.finish", 1, "sqlite"),
    "sqlite, a claim": ("deepfake.sweeping.claims:Claims._assign", 2, "sqlite"),
    "comparison": ("deepfake.runs.observer:Observer._compare", 1, "journal"),
}


@pytest.mark.parametrize("stage", STUDY_STAGES)
def test_a_study_whose_disk_is_full(stage: str, full: bool, forks: Forks, disk: Disk, undisturbed: Path) -> None:
    if not full and stage != "journal":
        pytest.skip("only with --full")
    at, call, storage = STUDY_STAGES[stage]
    place = disk(ROOM)
    outputs, filler = place / "outputs", place / "filler"
    shutil.copytree(undisturbed / "cache", outputs / "cache")
    words = [*STUDY, f"sweep.storage={storage}"]
    impatient = Fault("deepfake.sweeping.study:PATIENCE", "set", left=1.0)
    also = Fault("deepfake.sweeping.journal:PATIENCE", "set", left=1.0)
    fault = Fault(at, "fill", str(filler), 0, call)
    stopped = forks(*words, outputs=outputs, faults=[impatient, also, fault])
    assert "FAULT fill" in stopped.text, stopped.text
    assert "Traceback" not in stopped.text, stopped.text
    if stage == "comparison":
        # Every trial has been finished, and only what is made of them is left to do again.
        assert "could not be recorded: cannot write the tracking store" in stopped.text, stopped.text
    else:
        assert stopped.status in (1, 2), stopped.text
        assert "error:" in stopped.text, stopped.text
        assert "hint:" in stopped.text, stopped.text
    check_whole(outputs)
    filler.unlink()
    done = forks(*words, outputs=outputs)
    assert done.status == 0, done.text
    check_whole(outputs)
    assert len(pd.read_csv(outputs / "sweeps" / "full" / "comparison.csv")) == 3
    assert query(outputs, "SELECT COUNT(*) FROM runs WHERE status = 'RUNNING'") == [(0,)]


def test_an_evaluation_whose_disk_is_full(forks: Forks, disk: Disk, undisturbed: Path) -> None:
    place = disk(ROOM)
    outputs, filler = place / "outputs", place / "filler"
    shutil.copytree(undisturbed, outputs)
    run = only_run(outputs)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    fault = Fault("deepfake.commands.evaluate:main", "fill", str(filler))
    stopped = forks("evaluate", str(run), outputs=outputs, faults=[fault])
    assert "FAULT fill" in stopped.text
    assert stopped.is_told, stopped.text
    assert {path: path.read_bytes() for path in before} == before
    check_whole(outputs)
    filler.unlink()
    done = forks("evaluate", str(run), outputs=outputs)
    assert done.status == 0, done.text
    check_whole(outputs)
