from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, Mean
from deepfake.training import profiling
from deepfake.training.checkpoint import weights_digest
from deepfake.training.features.extract import FeatureReader
from deepfake.training.profiling import REPETITIONS, WARM_UPS, latency_ms


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def detector() -> Detector:
    return create_detector(BackboneOptions(name="tiny", pretrained=False, freeze=True), Mean(), 16)


@pytest.fixture
def shapes(detector: Detector) -> list[tuple[int, ...]]:
    """The clips the backbone is given."""
    seen: list[tuple[int, ...]] = []
    read = detector.backbone.vectors
    detector.backbone.vectors = lambda x: seen.append(tuple(x.shape)) or read(x)  # type: ignore[method-assign]
    return seen


def test_one_clip_is_read_again_and_again(detector: Detector, shapes: list, fabric: Fabric) -> None:
    assert latency_ms(detector, 3, 16, fabric) > 0
    assert shapes == [(3, 3, 16, 16)] * (WARM_UPS + REPETITIONS)


def test_a_reader_of_features_is_measured_with_its_backbone(detector: Detector, shapes: list, fabric: Fabric) -> None:
    latency_ms(FeatureReader(detector, torch.float32), 3, 16, fabric)
    assert len(shapes) == WARM_UPS + REPETITIONS


def test_a_slow_detector_is_measured_a_few_times_only(
    detector: Detector, shapes: list, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "ENOUGH", 0.0)
    latency_ms(detector, 3, 16, fabric)
    assert len(shapes) == WARM_UPS + profiling.FEWEST


def test_it_leaves_mode_and_weights_as_they_were(detector: Detector, fabric: Fabric) -> None:
    detector.train()
    before = weights_digest(detector)
    latency_ms(detector, 2, 16, fabric)
    assert detector.training
    assert weights_digest(detector) == before


def test_a_digest_tells_one_changed_weight(detector: Detector) -> None:
    before = weights_digest(detector)
    with torch.no_grad():
        next(detector.head.parameters()).view(-1)[0] += 1e-6
    assert weights_digest(detector) != before
