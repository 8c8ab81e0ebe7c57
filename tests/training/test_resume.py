"""Stopping anywhere and going on: the same numbers and weights as without the stop, to the last bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from deepfake.data.clips import Batch
from deepfake.errors import Interrupted, UserError
from deepfake.models.detector import Detector
from deepfake.models.options import Gru
from deepfake.training.options import AdamW, Constant, Cosine, Plateau
from deepfake.training.trainer import FitResult
from tests.training.fakes import FakeClips, small_detector
from tests.training.test_trainer import lasting, run


class Terminated(FakeClips):
    """Sends SIGTERM to its own process while batch ``at`` is fetched."""

    def __init__(self, at: int) -> None:
        super().__init__(seed=1)
        self.at = at
        self.fetched = 0

    def fetch(self, items: Sequence[int], epoch: int = 0) -> Batch:
        self.fetched += 1
        if self.fetched == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().fetch(items, epoch)


def interrupted(folder: Path, at: int, **changes: Any) -> tuple[FitResult, Detector]:
    """A fit that is stopped at a batch and gone on with by a fresh detector."""
    with pytest.raises(Interrupted):
        run(folder, small_detector(Gru(hidden=4)), train=Terminated(at), **changes)
    torch.manual_seed(99)  # what was drawn since must not matter
    return run(folder, small_detector(Gru(hidden=4)), resume=True, **changes)


CASES: list[dict[str, Any]] = [
    {"scheduler": Cosine(), "ema": 0.9},
    {"scheduler": Plateau(patience=0), "optimizer": AdamW(lr=0.5)},
    {"scheduler": Constant(), "accumulate": 2, "balance": "sampler"},
    {"scheduler": Cosine(), "precision": "bf16", "patience": 2},
]


@pytest.mark.parametrize("changes", CASES, ids=repr)
@pytest.mark.parametrize("at", [1, 5, 6])
def test_an_interrupted_fit_ends_as_if_it_had_not_been(tmp_path: Path, changes: dict[str, Any], at: int) -> None:
    changes = {"batch_size": 6, "epochs": 3, **changes}
    whole, one = run(tmp_path / "whole", small_detector(Gru(hidden=4)), **changes)
    parts, two = interrupted(tmp_path / "parts", at, **changes)
    assert lasting(parts.history) == lasting(whole.history)
    assert (parts.best_epoch, parts.epochs_run) == (whole.best_epoch, whole.epochs_run)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name


def test_an_interruption_in_an_epoch_says_where(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="epoch 2 after 1 of 3 batches"):
        run(tmp_path, train=Terminated(4))


def test_a_fit_that_was_killed_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 1:
            raise KilledError

    whole, _ = run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "parts", on_epoch=kill)
    told: list[int] = []
    parts, _ = run(tmp_path / "parts", resume=True, on_epoch=lambda epoch, metrics: told.append(epoch))
    assert told == [1, 2]
    assert lasting(parts.history) == lasting(whole.history)


def test_resuming_a_finished_fit_trains_nothing(tmp_path: Path) -> None:
    whole, _ = run(tmp_path)
    told: list[int] = []
    again, _ = run(tmp_path, resume=True, on_epoch=lambda epoch, metrics: told.append(epoch))
    assert told == []
    assert again.history == whole.history


def test_resuming_nothing_starts_and_says_so(tmp_path: Path) -> None:
    result, _ = run(tmp_path, resume=True, epochs=1)
    assert any("nothing to resume" in note for note in result.notes)


def test_resuming_with_another_seed_says_what_changed(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    result, _ = run(tmp_path, epochs=2, seed=4, resume=True)
    assert any("seed 3 -> 4" in note and "epochs 1 -> 2" in note for note in result.notes)


def test_the_former_handler_is_back_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path, epochs=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_is_left_beside_a_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.safetensors", "last.pt"]


@pytest.mark.parametrize("kind", ["a list", "no parts", "parts of another kind", "a folder", "no version number"])
def test_a_state_that_is_none_is_told_and_stays(tmp_path: Path, kind: str) -> None:
    run(tmp_path, epochs=1)
    last = tmp_path / "checkpoints" / "last.pt"
    whole = torch.load(last, weights_only=True)
    made = {
        "a list": [1, 2],
        "no parts": {"version": whole["version"]},
        "parts of another kind": {**dict.fromkeys(whole, 3), "version": whole["version"]},
        "no version number": {**whole, "version": "one"},
    }
    last.unlink()
    if kind == "a folder":
        last.mkdir()
    else:
        torch.save(made[kind], last)
    with pytest.raises(UserError, match=r"last\.pt cannot be read"):
        run(tmp_path, epochs=2, resume=True)
    assert last.exists()
