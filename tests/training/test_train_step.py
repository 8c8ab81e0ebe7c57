"""One update: from where its gradient is taken."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from deepfake.errors import UserError
from deepfake.models.options import Mean
from deepfake.training.options import Sgd, TrainerOptions
from deepfake.training.train_step import climbed
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


def test_scaled_losses_are_refused() -> None:
    fabric = SimpleNamespace(strategy=SimpleNamespace(precision=SimpleNamespace(scaler=object())))
    _check_steps(TrainerOptions(), fabric)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="precision=fp16"):
        _check_steps(TrainerOptions(sam=0.05), fabric)  # type: ignore[arg-type]
