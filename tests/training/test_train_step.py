"""One update: from where its gradient is taken."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from deepfake.errors import UserError
from deepfake.models.heads import Head, Output
from deepfake.models.heads.base import Classifier, masked_mean
from deepfake.models.options import Gru, HeadOptions, Mean
from deepfake.training.checkpoint import weights_digest
from deepfake.training.options import Sgd, TrainerOptions
from deepfake.training.train_step import Loss, climbed
from deepfake.training.trainer import _check_steps
from tests.training.fakes import FakeClips, small_detector, tiny_detector
from tests.training.test_trainer import lasting, run


def test_weights_climb_along_the_gradient_and_come_back() -> None:
    layer = nn.Linear(3, 1)
    before = [p.detach().clone() for p in layer.parameters()]
    layer(torch.tensor([[1.0, 2.0, 2.0]])).sum().backward()  # a gradient of length sqrt(1 + 4 + 4 + 1)
    with climbed(layer, 0.5):
        moved = torch.cat([(p - q).flatten() for p, q in zip(layer.parameters(), before, strict=True)])
        torch.testing.assert_close(moved.detach(), 0.5 * torch.tensor([1.0, 2.0, 2.0, 1.0]) / 10**0.5)
        assert all(p.grad is None for p in layer.parameters())
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), before, strict=True))


def test_weights_come_back_from_an_error() -> None:
    layer = nn.Linear(3, 1)
    before = layer.weight.detach().clone()
    layer(torch.ones(1, 3)).sum().backward()
    with pytest.raises(RuntimeError), climbed(layer, 0.5):
        raise RuntimeError
    assert torch.equal(layer.weight, before)


def test_no_gradient_climbs_nowhere() -> None:
    layer = nn.Linear(3, 1)
    (0 * layer(torch.ones(1, 3))).sum().backward()
    before = layer.weight.detach().clone()
    with climbed(layer, 0.5):
        assert torch.equal(layer.weight, before)


def test_batch_statistics_are_those_of_where_the_weights_are() -> None:
    norm = nn.BatchNorm1d(2)
    norm(torch.randn(4, 2)).square().sum().backward()
    before = {name: held.clone() for name, held in norm.named_buffers()}
    with climbed(norm, 0.1):
        norm(torch.randn(4, 2) + 5)
    assert all(torch.equal(before[name], held) for name, held in norm.named_buffers())
    norm(torch.randn(4, 2))
    assert norm.num_batches_tracked == 2


@pytest.mark.parametrize("rho", [1e-6, 0.1])
def test_a_radius_of_nearly_nothing_is_an_ordinary_step(tmp_path: Path, rho: float) -> None:
    head = Mean(dropout=0.2)
    plain, one = run(tmp_path / "a", small_detector(head), optimizer=Sgd(lr=0.1))
    aware, two = run(tmp_path / "b", small_detector(head), optimizer=Sgd(lr=0.1), sam=rho)
    close = all(torch.allclose(p, q, atol=1e-4) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert close == (rho < 0.01)
    # What an epoch is told of is where the weights are, not where they climb to.
    assert aware.history[0]["train/loss"] == pytest.approx(plain.history[0]["train/loss"], rel=0.1)


def test_accumulated_batches_climb_together(tmp_path: Path) -> None:
    head = Mean(dropout=0.0)
    _, large = run(tmp_path / "a", small_detector(head), batch_size=24, epochs=2, sam=0.1)
    _, small = run(tmp_path / "b", small_detector(head), batch_size=8, accumulate=3, epochs=2, sam=0.1)
    for p, q in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_it_is_the_same_twice(tmp_path: Path) -> None:
    clips = {"train": FakeClips(seed=1, size=64), "val": FakeClips(8, seed=2, size=64)}
    first, second = (run(tmp_path / name, tiny_detector(Mean()), sam=0.05, epochs=2, **clips)[0] for name in "ab")
    assert lasting(first.history) == lasting(second.history)


def test_frames_count_with_their_clips_label_where_the_mask_marks_them() -> None:
    loss = Loss(torch.tensor(1.0), smoothing=0.1, frames=0.5)
    output = Output(torch.tensor([0.3, -1.0]), torch.tensor([[2.0, 9.0], [0.5, -1.5]]))
    labels, mask = torch.tensor([1.0, 0.0]), torch.tensor([[True, False], [True, True]])
    clips = loss(output.logits, labels)
    frames = [loss(torch.tensor(logit), torch.tensor(label)) for logit, label in ((2.0, 1.0), (0.5, 0.0), (-1.5, 0.0))]
    expected = clips + 0.5 * torch.stack([frames[0], (frames[1] + frames[2]) / 2])
    torch.testing.assert_close(loss.trained(clips, output, labels, mask), expected)


def test_without_a_weight_frames_do_not_count() -> None:
    losses = torch.tensor([0.3])
    output = Output(torch.tensor([0.3]), None)
    assert Loss(torch.tensor(1.0)).trained(losses, output, losses, torch.ones(1, 2, dtype=torch.bool)) is losses


class OfClips(Head):
    """Says nothing of frames."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier(6)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> Output:
        return Output(self.classifier(masked_mean(features, mask)), None)


def test_a_head_without_frames_is_refused(tmp_path: Path) -> None:
    detector = small_detector()
    detector.head = OfClips()
    with pytest.raises(UserError, match="gives no logits of frames"):
        run(tmp_path, detector, frame_loss=0.5, epochs=1)
    assert run(tmp_path, detector, epochs=1)[0].epochs_run == 1


@pytest.mark.parametrize("head", [Mean(), Gru(hidden=4)], ids=repr)
def test_the_loss_that_is_told_is_the_clips(tmp_path: Path, head: HeadOptions) -> None:
    clips = FakeClips(4, seed=1)
    plain, one = run(tmp_path / "a", small_detector(head), train=clips, epochs=1)
    framed, two = run(tmp_path / "b", small_detector(head), train=clips, epochs=1, frame_loss=2.0)
    # The only step's loss is of the weights before it.
    assert framed.history[0]["train/loss"] == plain.history[0]["train/loss"]
    assert weights_digest(one) != weights_digest(two)


def test_scaled_losses_are_refused() -> None:
    fabric = SimpleNamespace(strategy=SimpleNamespace(precision=SimpleNamespace(scaler=object())))
    _check_steps(TrainerOptions(), fabric)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="precision=fp16"):
        _check_steps(TrainerOptions(sam=0.05), fabric)  # type: ignore[arg-type]
