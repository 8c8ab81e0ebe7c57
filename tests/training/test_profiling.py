from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from lightning_fabric import Fabric

from deepfake.metrics import EPOCH_PARTS
from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, Mean
from deepfake.training import profiling
from deepfake.training.checkpoint import weights_digest
from deepfake.training.features.extract import FeatureReader
from deepfake.training.profiling import (
    REPETITIONS,
    WARM_UPS,
    Clock,
    clip_flops,
    latency_ms,
    peak_flops,
    peak_memory,
    restart_peak_memory,
    waiting_note,
)
from tests.training.fakes import FakeClips, small_detector
from tests.training.test_trainer import lasting, run


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


def test_the_peak_of_a_processor_is_what_was_once_in_use() -> None:
    process = psutil.Process()
    # More than this process has ever held, in pages of its own: a heap need not give back what is freed.
    size = int(peak_memory(torch.device("cpu"))) - process.memory_info().rss + (64 << 20)
    with mmap.mmap(-1, size) as more:
        for page in range(0, size, mmap.PAGESIZE):
            more[page] = 1
        held = process.memory_info().rss
    assert process.memory_info().rss < held - (32 << 20)
    # The system counts in batches of pages.
    assert peak_memory(torch.device("cpu")) >= held - (1 << 20)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system keeps the peak")
def test_a_later_run_is_not_told_the_peak_of_an_earlier_one() -> None:
    process = psutil.Process()
    size = int(peak_memory(torch.device("cpu"))) - process.memory_info().rss + (64 << 20)
    with mmap.mmap(-1, size) as more:
        for page in range(0, size, mmap.PAGESIZE):
            more[page] = 1
        before = peak_memory(torch.device("cpu"))
    restart_peak_memory(torch.device("cpu"))
    assert peak_memory(torch.device("cpu")) < before - (32 << 20)


def test_a_profile_tells_all_parts(tmp_path: Path) -> None:
    result, _ = run(tmp_path, epochs=2, profile=True)
    last = result.history[-1]
    assert {f"profile/{part}" for part in EPOCH_PARTS} <= set(last)
    assert last["profile/forward"] > 0
    assert last["profile/peak_memory_bytes"] > 1e6
    parts = sum(last[f"profile/{part}"] for part in EPOCH_PARTS if part != "logging")
    assert parts <= last["epoch_seconds"]


def test_profiling_changes_no_numbers(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "a", epochs=1)
    told, _ = run(tmp_path / "b", epochs=1, profile=True)
    shared = {n: v for n, v in lasting(told.history)[0].items() if not n.startswith("profile/")}
    assert shared == lasting(plain.history)[0]


def test_a_clock_that_is_off_reads_nothing() -> None:
    clock = Clock(torch.device("cpu"), on=False)
    with clock("forward"):
        pass
    assert clock.read() == {}


def test_a_clock_adds_up_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 5.0, 6.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock(torch.device("cpu"), on=True)
    for _ in range(2):
        with clock("forward"):
            pass
    assert clock.read()["profile/forward"] == 3.0
    assert clock.read()["profile/forward"] == 0.0


@pytest.mark.parametrize(("freeze", "passes"), [(False, 3), (True, 1)])
def test_operations_of_a_clip_are_counted(freeze: bool, passes: int) -> None:
    detector = small_detector()
    detector.freeze = freeze
    batch = FakeClips(1).fetch([0])
    convolution = 2 * 6 * (3 * 5 * 5) * (6 * 6)  # channels out, weights of each, places
    classifier = 2 * 6
    expected = 2 * (passes * convolution + 3 * classifier)  # two frames
    assert clip_flops(detector, batch.clips, batch.mask) == expected


def flops(**changes: Any) -> float:
    options = BackboneOptions("vit_tiny_patch16_224", pretrained=False, **changes)
    detector = create_detector(options, Mean(), 32).train()
    found = clip_flops(detector, torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8), torch.ones(1, 2, dtype=torch.bool))
    assert detector.training
    assert all(parameter.grad is None for parameter in detector.parameters())
    return found


def test_what_is_trained_in_part_costs_what_its_gradients_do() -> None:
    frozen = flops(freeze=True)
    assert flops() == pytest.approx(3 * frozen, rel=0.01)
    # Activations' gradients, and hardly any of weights.
    assert flops(tune="norms") == pytest.approx(2 * frozen, rel=0.05)
    assert flops(tune="last_n", last_n=1) == pytest.approx(frozen * (1 + 2 / 12), rel=0.1)


def test_a_cpu_has_no_peak_in_the_tables() -> None:
    assert peak_flops(torch.device("cpu"), "bf16-mixed") is None


@pytest.mark.parametrize(("wait", "told"), [(0.5, True), (0.05, False)])
def test_waiting_for_clips_is_told_with_what_helps(wait: float, told: bool) -> None:
    epoch = {f"profile/{part}": 0.0 for part in EPOCH_PARTS} | {"profile/data_wait": wait, "profile/forward": 1 - wait}
    notes = waiting_note([epoch, epoch])
    assert any("trainer.num_workers" in note for note in notes) == told


def test_an_epoch_that_was_not_profiled_waited_for_nothing() -> None:
    assert waiting_note([{"val/loss": 0.5}]) == []
