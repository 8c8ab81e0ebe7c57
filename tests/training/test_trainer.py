"""Fitting: learning, repeating, choosing the best epoch, stopping."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from deepfake.data.clips import Batch
from deepfake.errors import Interrupted, TrainingDiverged, UserError
from deepfake.models.detector import Detector
from deepfake.models.options import Gru, Mean
from deepfake.training.checkpoint import load_weights
from deepfake.training.options import Adam, AdamW, Constant, Cosine, Plateau, Sgd, TrainerOptions
from deepfake.training.scoring import score
from deepfake.training.selection import Selection
from deepfake.training.trainer import FitOptions, FitResult, Trainer, _pos_weight
from tests.training.fakes import FakeClips, cpu, small_detector

TIMES = {"epoch_seconds", "samples_per_second"}


def run(
    folder: Path, detector: Detector | None = None, fabric: Fabric | None = None, **changes: Any
) -> tuple[FitResult, Detector]:
    arguments: dict[str, Any] = {
        "train": FakeClips(seed=1),
        "val": FakeClips(8, seed=2),
        "optimizer": AdamW(lr=0.02),
        "scheduler": Constant(),
        "backbone_lr": None,
        "layer_decay": None,
        "on_epoch": lambda epoch, metrics: None,
        "seed": 3,
        "selection": Selection(),
    }
    fields = {"epochs": 3, "batch_size": 8, "accelerator": "cpu", "num_workers": 0}
    for name, value in changes.items():
        (arguments if name in arguments or name == "resume" else fields)[name] = value
    detector = detector or small_detector()
    options = FitOptions(
        TrainerOptions(**fields),
        **{
            name: arguments[name]
            for name in ("optimizer", "scheduler", "backbone_lr", "layer_decay", "seed", "selection")
        },
    )
    fabric = fabric or cpu(precision=options.trainer.precision)
    trainer = Trainer(detector, arguments["train"], arguments["val"], options, fabric, folder)
    return trainer.fit(arguments["on_epoch"], resume=arguments.get("resume", False)), detector


def lasting(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Metrics without what a clock gave."""
    return [{name: value for name, value in epoch.items() if name not in TIMES} for epoch in history]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [Adam(lr=0.05), AdamW(lr=0.05), Sgd(lr=0.2)], ids=repr)
def test_every_optimizer_learns_the_patch(tmp_path: Path, optimizer: Any) -> None:
    result, _ = run(tmp_path, optimizer=optimizer, epochs=12, backbone_lr=0.05)
    assert result.best_metrics["val/roc_auc"] == 1.0
    assert result.history[-1]["train/loss"] < 0.6 * result.history[0]["train/loss"]


@pytest.mark.parametrize("scheduler", [Constant(), Cosine(), Plateau(patience=0)], ids=repr)
@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_same_fit_twice_gives_the_same_numbers(tmp_path: Path, scheduler: Any, ema: float | None) -> None:
    first, one = run(tmp_path / "a", scheduler=scheduler, ema=ema)
    second, two = run(tmp_path / "b", scheduler=scheduler, ema=ema)
    assert lasting(first.history) == lasting(second.history)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_loader_processes_change_nothing(tmp_path: Path) -> None:
    alone, _ = run(tmp_path / "a", epochs=2)
    helped, _ = run(tmp_path / "b", epochs=2, num_workers=2)
    assert lasting(alone.history) == lasting(helped.history)


def test_another_seed_gives_other_numbers(tmp_path: Path) -> None:
    first, _ = run(tmp_path / "a")
    second, _ = run(tmp_path / "b", seed=4)
    assert lasting(first.history) != lasting(second.history)


def test_an_epochs_metrics_are_all_there(tmp_path: Path) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    run(tmp_path, epochs=1, on_epoch=lambda epoch, metrics: told.append((epoch, metrics)))
    (epoch, metrics), *_ = told
    assert epoch == 0
    assert {"train/loss", "train/roc_auc", "val/loss", "val/roc_auc", "val/ece", "lr", "lr_backbone"} <= set(metrics)
    assert set(metrics) >= TIMES
    assert metrics["lr_backbone"] == pytest.approx(metrics["lr"] / 10)


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    head = Mean(dropout=0.0)
    _, large = run(tmp_path / "a", small_detector(head), batch_size=24, epochs=2)
    _, small = run(tmp_path / "b", small_detector(head), batch_size=8, accumulate=3, epochs=2)
    for p, q in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_a_batch_larger_than_the_split_shrinks_with_a_note(tmp_path: Path) -> None:
    result, _ = run(tmp_path, batch_size=512, epochs=1)
    assert any("shrunk to its 24 clips" in note for note in result.notes)


@pytest.mark.slow
def test_the_best_epochs_weights_are_left_in_the_detector(tmp_path: Path) -> None:
    result, detector = run(tmp_path, epochs=4, optimizer=AdamW(lr=0.5), monitor="val/loss", mode="min")
    losses = [epoch["val/loss"] for epoch in result.history]
    assert result.best_epoch == int(np.argmin(losses))
    other = small_detector()
    load_weights(other, tmp_path / "checkpoints" / "best.safetensors")
    scores = [
        score(d, FakeClips(8, seed=2), fabric=cpu(), batch_size=4, split="val").samples["score"]
        for d in (detector, other)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])


def test_averaged_weights_are_the_ones_kept(tmp_path: Path) -> None:
    _, plain = run(tmp_path / "a", epochs=1)
    _, averaged = run(tmp_path / "b", epochs=1, ema=0.999)
    assert not torch.equal(plain.head.classifier.weight, averaged.head.classifier.weight)  # type: ignore[arg-type,union-attr]


def test_patience_stops_early(tmp_path: Path) -> None:
    result, _ = run(tmp_path, epochs=30, patience=2, optimizer=Sgd(lr=1e-12))
    assert result.epochs_run == 3
    assert result.best_epoch == 0


def test_an_unknown_monitor_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, monitor="val/auc")
    assert "val/roc_auc" in caught.value.hint


def test_a_test_metric_never_chooses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a validation metric"):
        run(tmp_path, monitor="test/roc_auc")


def test_a_mode_that_keeps_the_worst_epoch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="worst epoch"):
        run(tmp_path, monitor="val/loss", mode="max")


def test_one_validation_class_falls_back_to_the_loss(tmp_path: Path) -> None:
    result, _ = run(tmp_path, val=FakeClips(4, only=1), epochs=2)
    assert any("follows val/loss instead" in note for note in result.notes)
    assert result.unavailable["val/roc_auc"] == "only fake samples"
    assert "val/roc_auc" not in result.history[0]
    assert result.best_epoch == int(np.argmin([epoch["val/loss"] for epoch in result.history]))


def test_no_validation_clips_keep_the_last_epoch(tmp_path: Path) -> None:
    result, _ = run(tmp_path, val=FakeClips(4, failed=4), epochs=2)
    assert result.best_epoch == 1
    assert any("the last epoch is kept" in note for note in result.notes)


def test_no_training_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no clips"):
        run(tmp_path, train=FakeClips(4, failed=4))


def test_a_loss_that_is_no_number_ends_the_fit(tmp_path: Path) -> None:
    detector = small_detector()
    detector.head.classifier.weight.data.fill_(float("nan"))  # type: ignore[union-attr,operator]
    with pytest.raises(TrainingDiverged, match="epoch 1"):
        run(tmp_path, detector)


def test_what_on_epoch_raises_comes_through(tmp_path: Path) -> None:
    class PrunedError(Exception):
        pass

    def prune(epoch: int, metrics: dict[str, float]) -> None:
        raise PrunedError

    with pytest.raises(PrunedError):
        run(tmp_path, on_epoch=prune)


@pytest.mark.parametrize("balance", ["none", "pos_weight", "sampler", "method", "set", "identity"])
@pytest.mark.parametrize("pairs", [False, True])
def test_every_balance_fits(tmp_path: Path, balance: str, pairs: bool) -> None:
    result, _ = run(tmp_path, balance=balance, pairs=pairs, epochs=1)
    assert np.isfinite(result.history[0]["train/loss"])


def test_in_pairs_no_class_is_weighed(tmp_path: Path) -> None:
    uneven = FakeClips(9, seed=1)
    one, two = (run(tmp_path / b, train=uneven, balance=b, pairs=True, epochs=2)[0] for b in ("none", "pos_weight"))
    assert lasting(one.history) == lasting(two.history)


@pytest.mark.parametrize(("only", "made", "weight"), [(None, 0.0, 1.0), (None, 0.5, 1 / 3), (0, 0.25, 3.0)])
def test_real_clips_that_are_made_fakes_are_weighed_as_such(only: int | None, made: float, weight: float) -> None:
    clips = FakeClips(12, only=only)
    clips.made_fake = made
    assert _pos_weight(clips, TrainerOptions(balance="pos_weight")).item() == pytest.approx(weight)


def test_half_precision_fits(tmp_path: Path) -> None:
    result, _ = run(tmp_path, small_detector(Gru(hidden=4)), precision="bf16", epochs=2)
    assert np.isfinite(result.history[-1]["val/loss"])


def test_progress_counts_every_clip_and_stops(tmp_path: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.bars: list[list[int]] = []
            self.open = 0

        def start(self, total: int, text: str) -> None:
            self.bars.append([total, 0])
            self.open += 1

        def advance(self, n: int) -> None:
            self.bars[-1][1] += n

        def stop(self) -> None:
            self.open -= 1

    counting = Counting()
    Trainer(
        small_detector(),
        FakeClips(seed=1),
        FakeClips(8, seed=2),
        FitOptions(TrainerOptions(epochs=1, batch_size=8), AdamW(), Cosine()),
        cpu(),
        tmp_path,
        counting,
    ).fit(lambda epoch, metrics: None)
    assert counting.bars == [[24, 24], [16, 16]]
    assert counting.open == 0


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
    {"scheduler": Constant(), "balance": "identity", "pairs": True},
    {"scheduler": Cosine(), "sam": 0.1, "ema": 0.9},
    {"scheduler": Constant(), "swa": 0.6, "frame_loss": 0.5},
    {"scheduler": Cosine(), "precision": "bf16", "patience": 2},
]


@pytest.mark.slow
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


def test_what_on_epoch_returns_is_raised_once_the_epoch_is_saved(tmp_path: Path) -> None:
    class PausedError(Exception):
        pass

    told: list[int] = []

    def pause(epoch: int, metrics: dict[str, float]) -> Exception | None:
        told.append(epoch)
        return PausedError() if epoch in (0, 1) else None

    whole, one = run(tmp_path / "whole")
    for _ in range(2):
        with pytest.raises(PausedError):
            run(tmp_path / "parts", resume=True, on_epoch=pause)
    parts, two = run(tmp_path / "parts", resume=True, on_epoch=pause)
    assert told == [0, 1, 2]
    assert lasting(parts.history) == lasting(whole.history)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name


def test_an_epoch_knows_whether_it_is_the_last(tmp_path: Path) -> None:
    for patience, length in ((None, 4), (1, 2)):
        options = FitOptions(
            # At this rate the first epoch stays the best.
            TrainerOptions(epochs=4, batch_size=8, accelerator="cpu", num_workers=0, patience=patience),
            AdamW(lr=0.0),
            Constant(),
        )
        clips, folder = FakeClips(seed=1), tmp_path / str(patience)
        trainer = Trainer(small_detector(), clips, FakeClips(8, seed=2), options, cpu(), folder)
        last: list[bool] = []

        def note(epoch: int, metrics: dict[str, float]) -> None:
            last.append(trainer.in_last_epoch)  # noqa: B023 - of this turn

        trainer.fit(note)
        assert last == [False] * (length - 1) + [True]


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
