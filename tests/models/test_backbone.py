"""Backbones by name: shapes, errors, weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deepfake.compat import prepare_torchvision
from deepfake.errors import UserError
from deepfake.models.backbone import UNKNOWN_SIZE, Keep, create_backbone, made_for
from deepfake.models.options import BackboneOptions

SHARED = Path(__file__).parents[2].parent / "shared"

FAST = [("tiny", 64), ("resnet18", 64), ("mobilenetv3_small_100", 64), ("vit_tiny_patch16_224", 64)]
SLOW = [
    ("resnet50", 96),
    ("efficientnet_b0", 96),
    ("efficientnet_b4", 96),
    ("tf_efficientnet_lite0", 96),
    ("inception_v3", 160),
    ("legacy_xception", 96),
    ("vit_small_patch16_224", 224),
    ("swin_tiny_patch4_window7_224", 224),
    ("convnext_atto", 96),
]


def options(name: str, **changes: object) -> BackboneOptions:
    return BackboneOptions(name=name, pretrained=False, **changes)  # type: ignore[arg-type]


def check_shapes(name: str, size: int) -> None:
    backbone = create_backbone(options(name), size).eval()
    images = torch.rand(2, 3, size, size)
    with torch.inference_mode():
        maps, vectors = backbone.maps(images), backbone.vectors(images)
    assert vectors.shape == (2, backbone.width("vectors"))
    assert maps.ndim == 4
    assert maps.shape[:2] == (2, backbone.width("maps"))
    assert min(maps.shape[2:]) > 1
    assert len(backbone.mean) == len(backbone.std) == 3


@pytest.mark.parametrize(("name", "size"), FAST)
def test_shapes(name: str, size: int) -> None:
    check_shapes(name, size)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), SLOW)
def test_shapes_of_large_ones(name: str, size: int) -> None:
    check_shapes(name, size)


def test_tokens_are_laid_out_where_their_patches_were() -> None:
    backbone = create_backbone(options("vit_tiny_patch16_224"), 64).eval()
    tokens = torch.arange(1 * 17 * 192, dtype=torch.float32).reshape(1, 17, 192)
    backbone.model.forward_features = lambda x: tokens
    maps = backbone.maps(torch.zeros(1, 3, 64, 64))
    torch.testing.assert_close(maps[0, :, 1, 2], tokens[0, 1 + 1 * 4 + 2])


def test_tiny_is_small() -> None:
    backbone = create_backbone(options("tiny"), 64)
    assert sum(p.numel() for p in backbone.parameters()) < 300_000


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        create_backbone(options("resnet5O"), 64)
    assert "timm has no model 'resnet5O'" in caught.value.message
    assert "resnet50" in caught.value.hint


def test_weights_that_cannot_be_had_name_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        create_backbone(BackboneOptions(name="test_resnet", pretrained=True), 64)
    assert "pretrained weights of 'test_resnet' cannot be had" in caught.value.message
    for way in ("backbone.pretrained=false", "backbone.weights=", "HF_HOME"):
        assert way in caught.value.hint


def test_tiny_has_no_pretrained_weights() -> None:
    with pytest.raises(UserError, match="No pretrained weights"):
        create_backbone(BackboneOptions(name="tiny", pretrained=True), 64)


def test_local_weights_are_loaded(tmp_path: Path) -> None:
    source = create_backbone(options("tiny"), 64)
    save_file(source.model.state_dict(), tmp_path / "tiny.safetensors")
    loaded = create_backbone(options("tiny", weights=str(tmp_path / "tiny.safetensors")), 64)
    for ours, theirs in zip(loaded.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file({"something.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="lacks"):
        create_backbone(options("tiny", weights=str(tmp_path / "other.safetensors")), 64)


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be read as plain weights"):
        create_backbone(options("tiny", weights=str(tmp_path / "weights.pth")), 64)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        create_backbone(options("tiny", weights=str(tmp_path / "none.pth")), 64)


def test_gradient_checkpointing_where_there_is_none() -> None:
    with pytest.raises(UserError, match="no gradient checkpointing"):
        create_backbone(options("tiny", grad_checkpointing=True), 64)


def test_preparing_torchvision_again_is_the_same() -> None:
    assert prepare_torchvision() is prepare_torchvision()


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "hf_home").is_dir(), reason="no shared Hugging Face cache")
def test_pretrained_weights_come_from_the_cache_offline() -> None:
    code = (
        "from deepfake.models.backbone import create_backbone\n"
        "from deepfake.models.options import BackboneOptions\n"
        "b = create_backbone(BackboneOptions(name='tf_efficientnet_lite0', pretrained=True), 64)\n"
        "print(float(next(b.parameters()).abs().mean()))\n"
    )
    env = os.environ | {"HF_HOME": str(SHARED / "hf_home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


def kept_in(held: dict[str, dict[str, torch.Tensor]]) -> Keep:
    return lambda key, make: held[key] if key in held else held.setdefault(key, make())


def test_weights_are_read_once_and_what_is_drawn_after_them_is_the_same(tmp_path: Path) -> None:
    torch.manual_seed(1)
    file = tmp_path / "weights.pth"
    torch.save(create_backbone(options("tiny"), 64).model.state_dict(), file)
    wanted = options("tiny", weights=str(file))
    held: dict[str, dict[str, torch.Tensor]] = {}
    built, drawn = [], []
    for keep in (None, kept_in(held), kept_in(held)):
        torch.manual_seed(0)
        built.append(create_backbone(wanted, 64, keep).state_dict())
        drawn.append(torch.rand(3))
    assert len(held) == 1
    for other in built[1:]:
        assert all(torch.equal(tensor, built[0][name]) for name, tensor in other.items())
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_training_does_not_change_what_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(create_backbone(options("tiny"), 64).model.state_dict(), file)
    held: dict[str, dict[str, torch.Tensor]] = {}
    wanted = options("tiny", weights=str(file))
    for _ in range(2):
        backbone = create_backbone(wanted, 64, kept_in(held))
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.add_(1)
    fresh = create_backbone(wanted, 64, kept_in(held)).model.state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in torch.load(file).items())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("inception_v3", 299),
        ("legacy_xception", 299),
        ("efficientnet_b4", 320),
        ("efficientnet_b4.ra2_in1k", 320),
        ("tf_efficientnet_b4", 380),
        ("convnext_tiny", 224),
        ("vit_base_patch14_dinov2", 518),
        ("tiny", 64),
        ("no_such_model", UNKNOWN_SIZE),
        ("resnet50.no_such_weights", UNKNOWN_SIZE),
    ],
)
def test_the_size_that_weights_were_made_for_is_timms(name: str, size: int) -> None:
    assert made_for(name) == size
