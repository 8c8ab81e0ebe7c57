"""Trials that are trained together: each has the numbers that it has alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepfake.models.heads import create_head
from deepfake.models.options import ConvLstm, Gru, HeadOptions, Lstm, Mean, Vit
from deepfake.training.features import fused
from deepfake.training.features.stacked import FUSED, PLAIN, Stack, shape_of
from deepfake.training.options import Adam, AdamW, Constant, Cosine, Plateau, Sgd, Timm
from deepfake.training.trainer import Trainer
from tests.training.beside import Fit, alone, assert_same, beside

#: Small heads of every kind by how much they drop.
HEADS: dict[str, Callable[[float], HeadOptions]] = {
    "mean": lambda drop: Mean(dropout=drop),
    "lstm": lambda drop: Lstm(hidden=5, layers=2, dropout=drop),
    "lstm forwards": lambda drop: Lstm(hidden=5, bidirectional=False, dropout=drop),
    "gru": lambda drop: Gru(hidden=5, layers=2, dropout=drop),
    "vit": lambda drop: Vit(width=8, depth=2, heads=2, max_grid=2, changes=True, dropout=drop),
    "convlstm": lambda drop: ConvLstm(hidden=4, layers=2, changes=True, dropout=drop),
}
DROPS = (0.0, 0.2, 0.5)
LIMITS = dict(fused.ON_CPU)


@pytest.fixture(autouse=True)
def _all_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it pays or not."""
    monkeypatch.setattr(fused, "ON_CPU", {})


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trials each shared stretch had."""
    found: list[int] = []
    usual = fused.train_together

    def counting(stretches: Sequence[fused.Stretch], *arguments: Any) -> None:
        found.append(len(stretches))
        usual(stretches, *arguments)

    monkeypatch.setattr(fused, "train_together", counting)
    return found


def pairs(tmp_path: Path, settings: Sequence[dict[str, Any]]) -> list[tuple[Fit, Fit]]:
    """The same fits alone and beside one another, both run."""
    singles = [Fit(tmp_path / f"alone{i}", **one) for i, one in enumerate(settings)]
    together = [Fit(tmp_path / f"beside{i}", **one) for i, one in enumerate(settings)]
    alone(singles)
    beside(together)
    return list(zip(singles, together, strict=True))


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_has_the_losses_of_its_single_run(tmp_path: Path, kind: str, trained: list[int]) -> None:
    settings = [{"head": HEADS[kind](drop), "seed": seed} for seed, drop in enumerate(DROPS)]
    for single, together in pairs(tmp_path, settings):
        assert_same(single, together)
    assert trained == [3, 3, 3]


@pytest.mark.parametrize("kind", HEADS)
def test_trials_of_one_seed_that_drop_alike_have_the_losses_of_their_single_runs(tmp_path: Path, kind: str) -> None:
    settings = [{"head": HEADS[kind](drop), "optimizer": AdamW(lr=rate)} for drop, rate in ((0.2, 0.01), (0.2, 0.03))]
    settings.append({"head": HEADS[kind](0.4), "optimizer": AdamW(lr=0.01)})
    for single, together in pairs(tmp_path, settings):
        assert_same(single, together)


def test_what_trials_of_one_seed_drop_alike_is_drawn_once() -> None:
    heads = [create_head(Mean(dropout=drop), 4) for drop in (0.2, 0.2, 0.4, 0.2)]
    stack = Stack(heads, [name for name, _ in heads[0].named_parameters()])
    stack.draws.begin([1, 1, 1, 2])
    with _Drawn() as drawn:
        stack(torch.ones(4, 2, 3, 4), torch.ones(4, 2, 3, dtype=torch.bool))
    assert drawn.count == 3


class _Drawn(TorchDispatchMode):
    """Counts what is drawn while entered."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "bernoulli" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda rate: Adam(lr=rate, weight_decay=rate, betas=[0.8 + rate, 0.99]),
        lambda rate: AdamW(lr=rate, weight_decay=10 * rate, eps=rate),
        lambda rate: Sgd(lr=10 * rate, momentum=0.9),
        lambda rate: Sgd(lr=10 * rate, momentum=0.0, weight_decay=rate),
        lambda rate: Timm(name="lion", lr=rate / 10),
    ],
    ids=["adam", "adamw", "momentum", "sgd", "timm"],
)
@pytest.mark.parametrize("scheduler", [Constant(), Cosine(warmup=0.3), Plateau(patience=0)], ids=repr)
def test_every_optimizer_and_schedule_steps_as_alone(tmp_path: Path, optimizer: Any, scheduler: Any) -> None:
    settings = [
        {"head": Lstm(hidden=5, dropout=0.1), "seed": seed, "optimizer": optimizer(rate), "scheduler": scheduler}
        for seed, rate in enumerate((0.003, 0.01, 0.03))
    ]
    for single, together in pairs(tmp_path, settings):
        assert_same(single, together)


@pytest.mark.parametrize(
    "keys",
    [
        {"accumulate": 2},
        {"clip_norm": None},
        {"clip_norm": 0.01},
        {"sam": 0.05},
        {"ema": 0.9},
        {"swa": 0.5, "epochs": 4},
        {"label_smoothing": 0.2, "frame_loss": 0.5},
        {"balance": "sampler"},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_whatever_a_step_does_it_does_as_alone(tmp_path: Path, keys: dict[str, Any]) -> None:
    settings = [{"head": Gru(hidden=5, dropout=0.2), "seed": seed, "keys": keys} for seed in range(3)]
    for single, together in pairs(tmp_path, settings):
        if keys.get("precision") == "bf16":
            # Rounded to 8 bits, other orders of summation show.
            torch.testing.assert_close(single.losses[0], together.losses[0], rtol=0, atol=0.03)
        else:
            assert_same(single, together)


def test_trials_may_differ_in_all_but_their_shape(tmp_path: Path, trained: list[int]) -> None:
    settings: list[dict[str, Any]] = [
        {"keys": {"clip_norm": None, "label_smoothing": 0.1}, "scheduler": Cosine()},
        {"keys": {"clip_norm": 0.05, "balance": "none", "ema": 0.5}, "optimizer": AdamW(lr=0.1, betas=[0.5, 0.9])},
        {"keys": {"frame_loss": 0.3, "swa": 0.4}, "head": Mean(dropout=0.0), "seed": 5},
    ]
    for single, together in pairs(tmp_path, settings):
        assert_same(single, together)
    assert trained == [3, 3, 3]


def test_trials_that_end_early_leave_the_others_as_they_are(tmp_path: Path, trained: list[int]) -> None:
    keys = [{"epochs": 1}, {"epochs": 6, "patience": 1}, {"epochs": 4}, {"epochs": 5}]
    settings = [{"keys": each, "seed": seed, "optimizer": AdamW(lr=0.3)} for seed, each in enumerate(keys)]
    for single, together in pairs(tmp_path, settings):
        assert_same(single, together)
    assert trained[0] == 4
    assert trained[-1] == 1


def test_what_becomes_nan_or_fails_is_its_own_affair(tmp_path: Path) -> None:
    def lose(trainer: Trainer, epoch: int) -> None:
        next(trainer.detector.head.parameters()).data.fill_(float("nan"))

    def fail(trainer: Trainer, epoch: int) -> None:
        if epoch == 1:
            raise ValueError("of its own")

    settings: list[dict[str, Any]] = [{"seed": 0}, {"seed": 1, "spoil": lose}, {"seed": 2, "spoil": fail}, {"seed": 3}]
    found = pairs(tmp_path, settings)
    for single, together in found:
        assert_same(single, together)
    assert [type(together.error).__name__ for _, together in found] == [
        "NoneType",
        "TrainingDiverged",
        "ValueError",
        "NoneType",
    ]


def test_trials_of_other_shapes_are_trained_by_themselves(tmp_path: Path, trained: list[int]) -> None:
    settings: list[dict[str, Any]] = [
        {"head": Mean()},
        {"head": Lstm(hidden=5)},
        {"head": Lstm(hidden=6)},
        {"head": Mean(), "keys": {"batch_size": 6}},
        {"head": Mean(), "optimizer": Sgd()},
        {"head": Mean(), "seed": 1},
    ]
    for single, together in pairs(tmp_path, settings):
        assert_same(single, together)
    assert sorted(trained[:5]) == [1, 1, 1, 1, 2]


def test_a_fit_that_was_stopped_goes_on_alone_or_beside_others(tmp_path: Path) -> None:
    def stop(trainer: Trainer, epoch: int) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    whole, others = Fit(tmp_path / "whole", seed=1), [Fit(tmp_path / "0"), Fit(tmp_path / "2", seed=2)]
    whole.run()
    for name in ("alone", "beside"):
        begun = Fit(tmp_path / name, seed=1, spoil=stop)
        with pytest.raises(KeyboardInterrupt):
            beside([begun, Fit(tmp_path / "other" / name)])
        again = Fit(tmp_path / name, seed=1, resume=True)
        alone([again]) if name == "alone" else beside([again, *others])
        assert again.error is None
        torch.testing.assert_close(again.losses[-1], whole.losses[-1], rtol=0, atol=1e-5)
        assert len(again.losses) == 2


def test_what_is_saved_of_a_trial_is_its_own_part_alone(tmp_path: Path) -> None:
    fits = [Fit(tmp_path / str(seed), seed=seed, head=Lstm(hidden=32)) for seed in range(8)]
    single = Fit(tmp_path / "single", head=Lstm(hidden=32))
    beside(fits)
    single.run()
    sizes = [(fit.folder / "checkpoints" / "last.pt").stat().st_size for fit in (fits[0], single)]
    assert sizes[0] < 1.1 * sizes[1]


def test_a_device_without_room_for_all_trains_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = fused.Stack

    def stack(heads: Sequence[Any], *arguments: Any) -> Any:
        if len(heads) > 2:
            raise torch.OutOfMemoryError("no room")
        return usual(heads, *arguments)

    monkeypatch.setattr(fused, "Stack", stack)
    for single, together in pairs(tmp_path, [{"seed": seed} for seed in range(5)]):
        assert_same(single, together)


def test_a_head_with_a_module_that_has_no_counterpart_is_not_fused() -> None:
    head = create_head(Mean(), 6)
    assert not isinstance(shape_of(head), str)
    head.dropout = nn.Sequential(nn.BatchNorm1d(6))  # type: ignore[assignment]
    assert "has no counterpart" in str(shape_of(head))


@pytest.mark.parametrize("kind", HEADS)
def test_all_that_a_head_is_made_of_is_known(kind: str) -> None:
    head = create_head(HEADS[kind](0.1), 6)
    assert {type(module) for module in head.modules()} <= {*FUSED, *PLAIN}


def test_wide_heads_on_a_cpu_are_left_alone(
    tmp_path: Path, trained: list[int], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.runs.together._said", set())
    monkeypatch.setattr(fused, "ON_CPU", LIMITS)
    widest = LIMITS[type(create_head(Gru(hidden=1), 1))].widest
    fits = [Fit(tmp_path / str(seed), seed=seed, head=Gru(hidden=widest + 1), keys={"epochs": 1}) for seed in range(2)]
    beside(fits)
    assert trained == []
    assert capsys.readouterr().out.count("gains nothing by it") == 1


@pytest.mark.parametrize(
    ("head", "features", "pays"),
    [
        (Mean(), 3 << 18, True),
        (Mean(), (3 << 18) + 1, False),
        (Lstm(hidden=128), 1 << 17, True),
        (Lstm(hidden=129), 1, False),
        (Gru(hidden=64), (1 << 17) + 1, False),
        (Vit(width=64), 1, True),
        (ConvLstm(hidden=4), 1, False),
    ],
    ids=str,
)
def test_what_does_not_pay_on_a_cpu_is_left_alone_and_on_a_gpu_nothing_is(
    head: HeadOptions, features: int, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "ON_CPU", LIMITS)
    built = create_head(head, 6)
    assert (fused.why_it_does_not_pay(built, features, torch.device("cpu")) == "") is pays
    assert fused.why_it_does_not_pay(built, features, torch.device("cuda")) == ""
