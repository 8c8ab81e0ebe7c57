"""Averages of weights: what they are, when they begin, and their batch statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepfake.errors import Interrupted, UserError
from deepfake.models.detector import Detector
from deepfake.models.options import Mean
from deepfake.training.averaging import LastEpochs, MovingAverage, apart, create_average, take_statistics
from deepfake.training.checkpoint import weights_digest
from deepfake.training.options import Sgd, TrainerOptions
from tests.training.fakes import FakeClips, cpu, small_detector, tiny_detector
from tests.training.test_trainer import Terminated, lasting, run


def filled(detector: Detector, value: float) -> Detector:
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.fill_(value)
    return detector


def test_the_mean_is_of_the_last_epochs() -> None:
    detector = small_detector()
    average = LastEpochs(detector, 1, cpu())
    began = [average.after_epoch(filled(detector, value), epoch, list) for epoch, value in enumerate((9.0, 1.0, 4.0))]
    assert began == [False, True, False]
    assert average.module is not None
    assert all((parameter == 2.5).all() for parameter in average.module.parameters())
    assert all((parameter == 4.0).all() for parameter in detector.parameters())


def test_there_is_none_before_its_first_epoch() -> None:
    average = LastEpochs(small_detector(), 2, cpu())
    average.after_epoch(small_detector(), 0, list)
    average.after_update(small_detector(), 1)
    assert average.module is None


@pytest.mark.parametrize(("swa", "epochs", "first"), [(0.25, 8, 6), (0.01, 10, 9), (1.0, 3, 0), (0.5, 1, 0)])
def test_at_least_one_epoch_counts(swa: float, epochs: int, first: int) -> None:
    average = create_average(small_detector(), TrainerOptions(epochs=epochs, swa=swa), cpu())
    assert isinstance(average, LastEpochs)
    assert average._first == first


def test_what_nobody_asks_for_is_not_there() -> None:
    assert create_average(small_detector(), TrainerOptions(), cpu()) is None
    assert isinstance(create_average(small_detector(), TrainerOptions(ema=0.9), cpu()), MovingAverage)


@pytest.mark.parametrize(("keys", "told"), [({"ema": 0.9}, "both average"), ({"patience": 2}, "may end before")])
def test_what_does_not_go_together_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        create_average(small_detector(), TrainerOptions(swa=0.5, **keys), cpu())


def test_statistics_are_those_of_the_clips() -> None:
    detector, clips = tiny_detector(Mean()), FakeClips(8, size=64, drawn=False)
    batches = [clips.fetch(range(4)), clips.fetch(range(4, 16))]
    norm = detector.backbone.model.stem[1]
    before = {name: p.detach().clone() for name, p in detector.named_parameters()}
    momentum = norm.momentum
    take_statistics(detector, lambda: batches, cpu())
    means = []
    with torch.no_grad():
        norm.register_forward_pre_hook(lambda module, x: means.append(x[0].mean((0, 2, 3))))
        for batch in batches:
            detector(batch.clips, batch.mask)
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    assert norm.momentum == momentum
    assert not any(module.training for module in detector.modules())
    assert all(torch.equal(p, before[name]) for name, p in detector.named_parameters())


def test_clips_are_not_read_where_there_are_no_statistics() -> None:
    def none() -> list[Any]:
        raise AssertionError

    take_statistics(small_detector(), none, cpu())
    take_statistics(tiny_detector(Mean(), freeze=True), none, cpu())


def test_a_copy_shares_what_is_not_trained() -> None:
    frozen = tiny_detector(Mean(), freeze=True)
    assert apart(frozen).backbone is frozen.backbone
    partly = tiny_detector(Mean())
    first, second = list(partly.backbone.parameters())[:2]
    first.requires_grad_(False)
    copied = list(apart(partly).backbone.parameters())
    assert copied[0] is first
    assert copied[1] is not second


def test_the_mean_is_what_is_chosen_from_and_kept(tmp_path: Path) -> None:
    # A rate that ruins what the first epochs had, so that they would be chosen.
    ends: list[torch.Tensor] = []
    detector = small_detector(Mean(dropout=0.0))
    layer = detector.head.classifier
    assert isinstance(layer, nn.Linear)
    result, kept = run(
        tmp_path,
        detector,
        epochs=4,
        swa=0.5,
        optimizer=Sgd(lr=1.0),
        monitor="val/loss",
        mode="min",
        on_epoch=lambda epoch, metrics: ends.append(layer.weight.detach().clone()),
    )
    assert result.best_epoch in (2, 3)
    means = {2: ends[2], 3: (ends[2] + ends[3]) / 2}
    assert isinstance(kept.head.classifier, nn.Linear)
    torch.testing.assert_close(kept.head.classifier.weight, means[result.best_epoch])


class Large(Terminated):
    def __init__(self, at: int) -> None:
        FakeClips.__init__(self, seed=1, size=64)
        self.at, self.fetched = at, 0


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, 9, 12])
def test_an_interrupted_mean_with_statistics_goes_on(tmp_path: Path, at: int) -> None:
    keys: dict[str, Any] = {"val": FakeClips(8, seed=2, size=64), "epochs": 3, "swa": 0.7, "batch_size": 6}
    whole, one = run(tmp_path / "a", tiny_detector(Mean()), train=Large(0), **keys)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", tiny_detector(Mean()), train=Large(at), **keys)
    torch.manual_seed(99)
    parts, two = run(tmp_path / "b", tiny_detector(Mean()), train=Large(0), resume=True, **keys)
    assert lasting(parts.history) == lasting(whole.history)
    assert weights_digest(one) == weights_digest(two)
