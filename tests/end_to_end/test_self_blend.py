"""Training on real pictures alone, of which fakes are made, and scoring what came of it."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.end_to_end.conftest import Command

FOLDERS = ["train/real", "val/real", "val/fake", "test/real", "test/fake"]
HOW = [
    *("model=cnn", "backbone=tiny", "dataset=images", "dataset.faces=none", "dataset.size=32", "trainer.epochs=1"),
    *("trainer.batch_size=4", "tracking.log_model=false", "tracking.system_metrics=false"),
]
BLEND = ["augment.self_blend=0.5", "augment.self_blend_mask=oval"]


@pytest.fixture
def reals(tmp_path: Path) -> Path:
    """Pictures in class folders, of which those to train on are all real."""
    rng = np.random.default_rng(0)
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
        for number in range(6):
            picture = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (40, 40), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(tmp_path / folder / f"{folder.replace('/', '_')}_{number}.png"), picture)
    return tmp_path


def test_real_pictures_alone_are_enough(reals: Path, command: Command) -> None:
    done = command("train.py", *HOW, *BLEND, f"dataset.root={reals}")
    assert done.returncode == 0, done.stderr
    assert "train 6 real + 0 fake" in done.stdout
    found = re.search(r"^run: (.+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    scored = command("-m", "deepfake.cli", "evaluate", found[1])
    assert scored.returncode == 0, scored.stderr


def test_without_blending_they_are_not(reals: Path, command: Command) -> None:
    done = command("train.py", *HOW, f"dataset.root={reals}")
    assert done.returncode == 2
    assert "error: the training part has no fake samples" in done.stderr
    assert "augment.self_blend=0.5" in done.stderr
