"""A study that machines share whose copies of the data lie in different places."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pytest

from tests.data.layouts.trees import plant
from tests.end_to_end.conftest import SMALL, Command
from tests.end_to_end.test_layouts import bring_to_life

STUDY = [
    *(text for text in SMALL if not text.startswith(("demo.", "head."))),
    "model=cnn",
    "backbone=tiny",
    "dataset=images",
    "dataset.faces=center",
    "tracking.log_model=false",
    "sampler=random",
    "optimizer.lr=tag(log,interval(1e-4,1e-2))",
    "sweep.name=shared roots",
]


@pytest.mark.slow
def test_a_study_goes_on_where_the_same_data_lies_elsewhere_and_refuses_other_data(
    command: Command, outputs: Path, tmp_path: Path
) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    cells = [(split, kind) for split in ("train", "valid", "test") for kind in ("real", "fake")]
    plant(first, [f"{split}/{kind}/{kind} {split} {n}.png" for split, kind in cells for n in range(8)])
    bring_to_life(first, tmp_path)
    shutil.copytree(first, copy)
    journal = outputs / "sweeps" / "shared roots" / "study.journal"

    def start(root: Path, trials: int) -> tuple[int, str, str]:
        done = command("train.py", "-m", *STUDY, f"dataset.root={root}", f"sweep.n_trials={trials}")
        return done.returncode, done.stdout, done.stderr

    status, _, stderr = start(first, 2)
    assert status == 0, stderr
    begun = journal.read_text()
    status, stdout, stderr = start(copy, 3)
    assert status == 0, stderr
    assert "study shared roots goes on: 2 of 3 trials have ended" in stdout
    # Nothing of what was there is another by now.
    assert journal.read_text().startswith(begun)

    changed = copy / "train" / "real" / "real train 0.png"
    cv2.imwrite(str(changed), 255 - cv2.imread(str(changed)))
    status, stdout, stderr = start(copy, 4)
    assert status == 2, stdout + stderr
    assert "error: the data of dataset=images" in stderr
    assert "is not what the study's other trials had" in stderr
    assert "hint: bring the same data here, or give sweep.name=<new name>" in stderr
    # Where the data is the same, the refused trial is run.
    status, stdout, stderr = start(first, 4)
    assert status == 0, stderr
    assert "best of 4 trials" in stdout
