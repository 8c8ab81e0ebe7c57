"""Which part of a backbone is trained, and what is left as it came."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from deepfake.compat import prepare_torchvision
from deepfake.errors import UserError
from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, ConvLstm, HeadOptions, Mean
from deepfake.models.tuning import AdaptedLinear, layers_of

prepare_torchvision()
import timm  # noqa: E402

VIT, CNN = "vit_tiny_patch16_224", "tf_efficientnet_lite0"


def detector_of(name: str, tune: str, head: HeadOptions | None = None, size: int = 32, **changes: object) -> Detector:
    torch.manual_seed(0)
    options = BackboneOptions(name=name, pretrained=False, tune=tune, **changes)  # type: ignore[arg-type]
    return create_detector(options, head or Mean(), size)


def trained(detector: Detector) -> set[str]:
    return {name for name, p in detector.backbone.model.named_parameters() if p.requires_grad}


def step(detector: Detector, size: int = 32) -> None:
    """One step at a rate that changes all that can be."""
    detector.train()
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], 0.1)
    clips = torch.randint(0, 256, (4, 2, 3, size, size), dtype=torch.uint8)
    for _ in range(2):  # an addition's first half has no gradient before its second half is not zero
        detector(clips, torch.ones(4, 2, dtype=torch.bool)).logits.square().sum().backward()
        optimizer.step()


def changed(before: dict[str, torch.Tensor], detector: Detector) -> set[str]:
    return {name for name, held in detector.state_dict().items() if not torch.equal(before[name], held)}


def test_all_is_what_it_was() -> None:
    detector = detector_of("tiny", "all")
    assert trained(detector) == set(dict(detector.backbone.model.named_parameters()))
    assert detector.fixed == frozenset()


@pytest.mark.parametrize("name", [VIT, CNN])
@pytest.mark.parametrize("tune", ["norms", "bias", "last_n", "lora"])
def test_what_is_fixed_stays_and_the_rest_is_trained(name: str, tune: str) -> None:
    if (name, tune) == (CNN, "lora"):
        return
    detector = detector_of(name, tune)
    before = copy.deepcopy(detector.state_dict())
    step(detector)
    moved = changed(before, detector)
    assert not moved & detector.fixed
    assert {f"backbone.model.{name}" for name in trained(detector)} <= moved
    # All that is neither trained nor a statistic or a position is fixed.
    left = before.keys() - detector.fixed - {f"backbone.model.{name}" for name in trained(detector)}
    assert all(not name.startswith("backbone.") or "running_" in name or "_tracked" in name for name in left) or (
        name == VIT and {"backbone.model.cls_token", "backbone.model.pos_embed"} <= left
    )


def test_norms_are_scales_and_shifts_with_their_statistics() -> None:
    assert trained(detector_of(VIT, "norms")) >= {"norm.weight", "norm.bias", "blocks.0.norm1.weight"}
    assert not any(".attn." in name for name in trained(detector_of(VIT, "norms")))
    detector = detector_of(CNN, "norms")
    before = copy.deepcopy(detector.state_dict())
    step(detector)
    assert "backbone.model.bn1.running_mean" in changed(before, detector)


def test_biases_leave_statistics_as_they_came() -> None:
    detector = detector_of(CNN, "bias")
    assert all(name.endswith("bias") for name in trained(detector))
    assert not any(isinstance(m, nn.BatchNorm2d) and m.training for m in detector.train().backbone.modules())


def test_the_last_blocks_and_the_norms_behind_them() -> None:
    one = trained(detector_of(VIT, "last_n", last_n=1))
    assert {name.split(".")[0] for name in one} == {"blocks", "norm"}
    assert {name.split(".")[1] for name in one if name.startswith("blocks")} == {"11"}
    detector = detector_of(CNN, "last_n", last_n=1).train()
    assert detector.backbone.model.bn2.training
    assert not detector.backbone.model.bn1.training


@pytest.mark.parametrize(
    ("name", "tune", "told"),
    [
        ("tiny", "last_n", "names no layers"),
        ("tiny", "lora", "has no linear layers"),
        ("nf_resnet50", "norms", "finds nothing to train"),
    ],
)
def test_a_part_that_is_not_there_is_refused(name: str, tune: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        detector_of(name, tune, size=64)


def test_more_blocks_than_there_are_are_refused() -> None:
    with pytest.raises(UserError, match="has 8 blocks or stages") as caught:
        detector_of(CNN, "last_n", last_n=9)
    assert "to 8 or less" in caught.value.hint


def test_frozen_and_tuned_is_refused() -> None:
    with pytest.raises(UserError, match="trains nothing"):
        detector_of("tiny", "norms", freeze=True)


def test_additions_change_nothing_at_first_and_keep_names() -> None:
    plain, adapted = detector_of(VIT, "all").eval(), detector_of(VIT, "lora", lora_rank=2).eval()
    clips = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(plain.extract(clips), adapted.extract(clips))
    assert plain.state_dict().keys() <= adapted.state_dict().keys()
    layer = adapted.backbone.model.blocks[0].attn.qkv
    assert isinstance(layer, AdaptedLinear)
    assert layer.lora_a.shape == (2, 192)
    assert layer.scale == 8.0


def test_an_addition_is_the_product_that_it_says() -> None:
    layer = AdaptedLinear(nn.Linear(5, 3), rank=2, alpha=4)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(7, 5)
    merged = layer.weight + 2 * layer.lora_b @ layer.lora_a
    torch.testing.assert_close(layer(x), x @ merged.T + layer.bias)


def test_layers_that_are_not_called_get_no_addition() -> None:
    detector = detector_of("swinv2_tiny_window8_256", "lora", size=64)
    kinds = {name: type(m) for name, m in detector.backbone.named_modules() if isinstance(m, nn.Linear)}
    assert kinds["model.layers.0.blocks.0.attn.qkv"] is nn.Linear
    assert kinds["model.layers.0.blocks.0.mlp.fc1"] is AdaptedLinear


@pytest.mark.parametrize("tune", ["norms", "bias", "lora"])
def test_checkpointed_gradients_reach_what_is_tuned(tune: str) -> None:
    detector = detector_of(VIT, tune, grad_checkpointing=True)
    before = copy.deepcopy(detector.state_dict())
    step(detector)
    assert {f"backbone.model.{name}" for name in trained(detector)} <= changed(before, detector)


def test_maps_are_read_from_a_tuned_backbone() -> None:
    detector = detector_of(VIT, "lora", ConvLstm(hidden=4))
    before = copy.deepcopy(detector.state_dict())
    step(detector)
    assert {f"backbone.model.{name}" for name in trained(detector)} <= changed(before, detector)


@pytest.mark.parametrize(("name", "coarse", "count"), [(VIT, True, 13), (CNN, True, 8), (CNN, False, 17)])
def test_layers_hold_every_parameter_once(name: str, coarse: bool, count: int) -> None:
    model = timm.create_model(name, num_classes=0)
    layers = layers_of(model, "this", coarse=coarse)
    assert len(layers) == count
    assert sorted(name for layer in layers for name in layer) == sorted(dict(model.named_parameters()))


def test_norms_behind_the_last_block_belong_to_it() -> None:
    layers = layers_of(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0), "this", coarse=True)
    assert len(layers) == 5
    assert "norm.weight" in layers[-1]
    assert any(name.startswith("layers.3") for name in layers[-1])


def test_a_pretrained_backbone_need_not_be_saved_where_a_part_is_trained(tmp_path: Path) -> None:
    file = tmp_path / "vit.pth"
    torch.save(detector_of(VIT, "all").backbone.model.state_dict(), file)
    based = {
        (weights, tune): detector_of(VIT, tune, weights=weights).based
        for weights in (None, str(file))
        for tune in ("all", "norms")
    }
    assert [pair for pair, value in based.items() if value] == [(str(file), "norms")]


def test_nor_need_one_that_is_frozen(tmp_path: Path) -> None:
    file = tmp_path / "vit.pth"
    torch.save(detector_of(VIT, "all").backbone.model.state_dict(), file)
    assert detector_of(VIT, "all", weights=str(file), freeze=True).based
    assert not detector_of(VIT, "all", freeze=True).based
