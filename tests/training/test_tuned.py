"""Fits that train a part of a backbone: what is saved of them, and going on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deepfake.errors import Interrupted, UserError
from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, Mean
from deepfake.training.checkpoint import base_digest, load_weights, weights_digest
from deepfake.training.options import Cosine
from tests.training.fakes import FakeClips
from tests.training.test_trainer import Terminated, lasting, run

VIT, CNN = "vit_tiny_patch16_224", "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that stand for pretrained weights, and one of others."""
    folder = tmp_path_factory.mktemp("weights")
    files = {}
    for seed, (key, name) in enumerate({VIT: VIT, CNN: CNN, "other": VIT}.items()):
        torch.manual_seed(seed)
        model = create_detector(BackboneOptions(name=name, pretrained=False), Mean(), 32).backbone.model
        files[key] = folder / f"{key}.pth"
        torch.save(model.state_dict(), files[key])
    return files


def tuned(name: str, tune: str, weights: Path | None = None, seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    options = BackboneOptions(
        name=name, pretrained=False, weights=None if weights is None else str(weights), tune=tune, last_n=1
    )
    return create_detector(options, Mean(), 32)


def fit(folder: Path, detector: Detector, **changes: Any) -> Any:
    return run(folder, detector, val=FakeClips(8, seed=2, size=32), **{"epochs": 2, "batch_size": 6, **changes})


class Large(Terminated):
    """The same of 32 pixels."""

    def __init__(self, at: int) -> None:
        FakeClips.__init__(self, seed=1, size=32)
        self.at, self.fetched = at, 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tune"), [(VIT, "lora"), (VIT, "norms"), (CNN, "norms"), (CNN, "bias"), (CNN, "last_n")]
)
@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_interrupted_fit_ends_as_if_it_had_not_been(
    tmp_path: Path, weights: dict[str, Path], name: str, tune: str, ema: float | None
) -> None:
    keys: dict[str, Any] = {"ema": ema, "layer_decay": 0.8, "scheduler": Cosine()}
    whole, one = fit(tmp_path / "a", tuned(name, tune, weights[name]), train=Large(0), **keys)
    with pytest.raises(Interrupted):
        fit(tmp_path / "b", tuned(name, tune, weights[name]), train=Large(6), **keys)
    # What an addition begins with is drawn, and saved.
    parts, two = fit(tmp_path / "b", tuned(name, tune, weights[name], seed=9), train=Large(0), **keys, resume=True)
    assert lasting(parts.history) == lasting(whole.history)
    assert weights_digest(one) == weights_digest(two)
    file = tmp_path / "b" / "checkpoints" / "best.safetensors"
    saved = load_file(file)
    assert not saved.keys() & two.fixed
    assert saved.keys() | two.fixed == two.state_dict().keys()
    loaded = tuned(name, tune, weights[name], seed=5)
    load_weights(loaded, file)
    assert weights_digest(loaded) == weights_digest(two)


def test_another_base_is_refused(tmp_path: Path, weights: dict[str, Path]) -> None:
    fit(tmp_path, tuned(VIT, "lora", weights[VIT]), train=Large(0), epochs=1)
    file = tmp_path / "checkpoints" / "best.safetensors"
    assert base_digest(file) is not None
    for other in (tuned(VIT, "lora", weights["other"]), tuned(VIT, "lora", seed=3)):
        with pytest.raises(UserError, match="another backbone's weights"):
            load_weights(other, file)
    with pytest.raises(UserError, match="another backbone's weights"):
        fit(tmp_path, tuned(VIT, "lora", weights["other"]), train=Large(0), resume=True)


def test_a_part_of_another_kind_is_refused(tmp_path: Path, weights: dict[str, Path]) -> None:
    fit(tmp_path, tuned(VIT, "lora", weights[VIT]), train=Large(0), epochs=1)
    with pytest.raises(UserError, match="tensors unknown, such as backbone"):
        load_weights(tuned(VIT, "norms", weights[VIT]), tmp_path / "checkpoints" / "best.safetensors")


@pytest.mark.parametrize("tune", ["all", "norms"])
def test_additions_begin_on_what_was_trained_without(tmp_path: Path, weights: dict[str, Path], tune: str) -> None:
    _, before = fit(tmp_path, tuned(VIT, tune, weights[VIT]), train=Large(0), epochs=1)
    file = tmp_path / "checkpoints" / "best.safetensors"
    with pytest.raises(UserError):
        load_weights(tuned(VIT, "lora", weights[VIT]), file)
    detector = tuned(VIT, "lora", weights[VIT])
    assert len(detector.added) == 96
    load_weights(detector, file, detector.added)
    clips = FakeClips(2, size=32).fetch([0]).clips
    assert torch.equal(detector.eval().extract(clips), before.eval().extract(clips))


def test_a_random_base_is_saved_with_the_rest(tmp_path: Path) -> None:
    _, detector = fit(tmp_path, tuned(CNN, "norms"), train=Large(0), epochs=1)
    file = tmp_path / "checkpoints" / "best.safetensors"
    assert base_digest(file) is None
    assert load_file(file).keys() == detector.state_dict().keys()
