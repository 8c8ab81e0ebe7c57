"""Weights and states on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepfake.errors import UserError
from deepfake.models.options import Gru
from deepfake.training.checkpoint import load_state, load_weights, save_state, save_weights
from tests.training.fakes import small_detector
from tests.training.test_trainer import run


def test_a_state_runs_no_code_when_loaded(tmp_path: Path) -> None:
    run(tmp_path, epochs=1, ema=0.9)
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert {"detector", "average", "optimizer", "schedule", "scaler", "monitor", "position", "sums"} <= set(state)


def test_a_torn_state_is_refused(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    last = tmp_path / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read"):
        run(tmp_path, epochs=2, resume=True)


def test_a_state_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    save_state({"version": 99}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="newer version"):
        load_state(tmp_path / "last.pt")


def test_a_failed_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(small_detector(), path, {})
    before = path.read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="no space"):
        save_weights(small_detector(), path, {})
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_weights_of_another_detector_are_refused(tmp_path: Path) -> None:
    save_weights(small_detector(), tmp_path / "best.safetensors", {})
    with pytest.raises(UserError, match="do not fit"):
        load_weights(small_detector(Gru(hidden=4)), tmp_path / "best.safetensors")


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights"):
        load_weights(small_detector(), tmp_path / "best.safetensors")


def test_weights_can_be_read_by_whoever_may_read_other_files(tmp_path: Path) -> None:
    save_weights(small_detector(), tmp_path / "best.safetensors", {})
    (tmp_path / "other").write_text("x")
    assert (tmp_path / "best.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
