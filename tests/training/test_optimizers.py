"""Optimizers and schedules by the class of their options."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from deepfake.errors import UserError
from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, Gru, Mean, Vit
from deepfake.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    cosine_factor,
    create_optimizer,
    create_schedule,
    logged_rates,
    parameter_groups,
)
from deepfake.training.options import (
    Adam,
    AdamW,
    Constant,
    Cosine,
    OptimizerOptions,
    Plateau,
    SchedulerOptions,
    Sgd,
    Timm,
)
from tests.training.fakes import tiny_detector


def groups() -> list[dict[str, Any]]:
    return [
        {"name": name, "params": [torch.nn.Parameter(torch.ones(2))], "lr": lr, "weight_decay": 0.0}
        for name, lr in (("head", 0.1), ("backbone", 0.01))
    ]


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def trace(options: SchedulerOptions, updates: int) -> list[list[float]]:
    optimizer = create_optimizer(Adam(), groups(), fused=False)
    schedule = create_schedule(options, optimizer, updates=updates, mode="max")
    seen = []
    for _ in range(updates):
        seen.append(rates(optimizer))
        optimizer.step()
        schedule.after_update()
    return seen


def test_frozen_parameters_are_in_no_group() -> None:
    groups = parameter_groups(tiny_detector(Mean(), freeze=True), AdamW())
    assert {group["name"] for group in groups} == {"head", "head/no_decay"}


def test_the_backbone_learns_at_a_tenth_unless_told() -> None:
    detector = tiny_detector(Gru())
    rates = {g["name"]: g["lr"] for g in parameter_groups(detector, AdamW(lr=0.1))}
    assert rates == pytest.approx({"head": 0.1, "head/no_decay": 0.1, "backbone": 0.01, "backbone/no_decay": 0.01})
    rates = {g["name"]: g["lr"] for g in parameter_groups(detector, AdamW(lr=0.1), 0.5)}
    assert rates["backbone"] == 0.5


def test_norms_biases_and_positions_do_not_decay() -> None:
    detector = tiny_detector(Vit(width=16, depth=1))
    groups = {str(g["name"]): g for g in parameter_groups(detector, AdamW(weight_decay=0.3))}
    assert groups["head"]["weight_decay"] == 0.3
    assert groups["head/no_decay"]["weight_decay"] == 0.0
    decayed = {id(p) for p in groups["head"]["params"]}
    assert id(detector.head.rows) not in decayed
    assert id(detector.head.classifier.bias) not in decayed  # type: ignore[union-attr]
    assert id(detector.head.classifier.weight) in decayed  # type: ignore[union-attr]


def vit(tune: str = "all") -> Detector:
    torch.manual_seed(0)
    options = BackboneOptions(name="vit_tiny_patch16_224", pretrained=False, tune=tune)
    return create_detector(options, Mean(), 32)


def test_rates_decay_from_the_last_layer_to_the_first() -> None:
    detector = vit()
    groups = parameter_groups(detector, AdamW(lr=0.1), 0.01, 0.5)
    by_name = {str(g["name"]): g for g in groups}
    assert by_name["head"]["lr"] == 0.1
    assert by_name["backbone"]["lr"] == by_name["backbone/no_decay"]["lr"] == 0.01
    assert by_name["backbone/11"]["lr"] == pytest.approx(0.005)
    assert by_name["backbone/0/no_decay"]["lr"] == pytest.approx(0.01 * 0.5**12)
    assert id(detector.backbone.model.cls_token) in {id(p) for p in by_name["backbone/0/no_decay"]["params"]}
    held = [id(p) for g in groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in detector.parameters())


def test_a_decay_of_one_changes_no_rate() -> None:
    groups = parameter_groups(vit(), AdamW(lr=0.1), 0.01, 1.0)
    assert {g["lr"] for g in groups if str(g["name"]).startswith("backbone")} == {0.01}


def test_layers_that_are_not_trained_have_no_group() -> None:
    groups = parameter_groups(vit("last_n"), AdamW(), 0.01, 0.5)
    assert {str(g["name"]).removesuffix("/no_decay") for g in groups} == {"head", "backbone", "backbone/11"}


def test_decay_on_a_backbone_that_names_no_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"layer_decay=0\.5 on a backbone that names no layers"):
        create_detector(BackboneOptions("tiny", pretrained=False, layer_decay=0.5), Mean(), 64)


@pytest.mark.parametrize(
    ("tune", "decay", "names"),
    [
        ("all", None, {"lr", "lr_backbone"}),
        ("norms", None, {"lr", "lr_backbone"}),
        ("norms", 0.5, {"lr", "lr_backbone", "lr_backbone_first"}),
    ],
)
def test_logged_rates_are_of_the_ends(tune: str, decay: float | None, names: set[str]) -> None:
    optimizer = create_optimizer(AdamW(lr=0.1), parameter_groups(vit(tune), AdamW(lr=0.1), 0.01, decay), fused=False)
    logged = logged_rates(optimizer)
    assert logged.keys() == names
    assert (logged["lr"], logged["lr_backbone"]) == (0.1, 0.01)
    if decay is not None:
        # The first block's: the stem has no norm.
        assert logged["lr_backbone_first"] == pytest.approx(0.01 * 0.5**11)


def test_groups_hold_each_parameter_once() -> None:
    detector = tiny_detector(Gru())
    held = [id(p) for g in parameter_groups(detector, AdamW()) for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in detector.parameters())


@pytest.mark.parametrize("options", [Adam(), AdamW(), Sgd(momentum=0.0), Sgd()], ids=repr)
@pytest.mark.parametrize("fused", [False, True])
def test_groups_keep_their_rates_and_descend(options: Any, fused: bool) -> None:
    optimizer = create_optimizer(options, groups(), fused=fused)
    assert rates(optimizer) == [0.1, 0.01]
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert (parameter < 1).all()


@pytest.mark.parametrize("name", ["lion", "lamb", "muon", "adopt"])
def test_timms_optimizers_keep_the_groups_rates_and_descend(name: str) -> None:
    optimizer = create_optimizer(Timm(name=name), groups(), fused=True)
    assert rates(optimizer) == [0.1, 0.01]
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.ones(2)
    for _ in range(2):
        optimizer.step()
    assert all((group["params"][0] < 1).all() for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (Timm(name="lyon"), "did you mean 'lion'"),
        (Timm(name="adahessian"), "is no optimizer of timm"),
        (Timm(name="lion", arguments={"beta": 3}), "optimizer.arguments"),
        (Timm(name="bnbadam"), "bitsandbytes"),
    ],
    ids=repr,
)
def test_what_timm_cannot_make_is_told(options: Timm, told: str) -> None:
    with pytest.raises(UserError) as caught:
        create_optimizer(options, groups(), fused=False)
    assert told in str(caught.value)


def test_a_constant_rate_stays() -> None:
    assert trace(Constant(), 3) == [[0.1, 0.01]] * 3


def test_cosine_warms_up_peaks_and_ends_on_the_floor() -> None:
    seen = trace(Cosine(warmup=0.2, floor=0.1), 20)
    heads = [rate[0] for rate in seen]
    assert heads[0] == pytest.approx(0.1 / 5)
    assert heads[4] == max(heads) == pytest.approx(0.1)
    assert heads[-1] == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(heads[4:]))
    assert all(head == pytest.approx(10 * backbone) for head, backbone in seen)


@pytest.mark.parametrize(("updates", "warmup"), [(1, 0.0), (1, 1.0), (2, 0.5), (10, 1.0)])
def test_cosine_is_defined_however_short(updates: int, warmup: float) -> None:
    assert all(0 < cosine_factor(i, updates, warmup, 0.01) <= 1 for i in range(updates + 1))


def test_plateau_shrinks_after_its_patience() -> None:
    optimizer = create_optimizer(Adam(), groups(), fused=False)
    schedule = create_schedule(Plateau(patience=1, factor=0.5), optimizer, updates=9, mode="max")
    seen = []
    for value in (0.5, 0.6, 0.6, None, 0.6, 0.7):
        schedule.after_epoch(value)
        seen.append(rates(optimizer)[0])
    assert seen == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05])


def test_a_schedule_goes_on_where_another_stopped() -> None:
    first = create_optimizer(Adam(), groups(), fused=False)
    schedule = create_schedule(Cosine(), first, updates=10, mode="max")
    first.step()
    schedule.after_update()
    second = create_optimizer(Adam(), groups(), fused=False)
    resumed = create_schedule(Cosine(), second, updates=10, mode="max")
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for optimizer, one in ((first, schedule), (second, resumed)):
        optimizer.step()
        one.after_update()
    assert rates(first) == rates(second)


def test_every_class_of_options_has_its_own() -> None:
    assert set(OPTIMIZERS) == set(OptimizerOptions.__subclasses__())
    assert set(SCHEDULES) == set(SchedulerOptions.__subclasses__())


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UserError, match="OptimizerOptions"):
        create_optimizer(OptimizerOptions(), groups(), fused=False)
