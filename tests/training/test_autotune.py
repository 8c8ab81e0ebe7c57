"""What fits a device, how many processes read, and what is done when memory runs out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deepfake.data.clips import ClipSet
from deepfake.data.crop_records import StoreWriter, read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import FRAME, Crops
from deepfake.data.media import MediaInfo
from deepfake.data.options import AugmentOptions
from deepfake.models.detector import Detector
from deepfake.models.options import Mean
from deepfake.training import autotune
from deepfake.training.autotune import (
    SIZES,
    DeviceClips,
    choose_workers,
    compile_or_not,
    kept_bytes,
    largest_batch,
    split_batch,
    to_device,
    without_trace,
)
from tests.training.fakes import FakeClips, cpu, small_detector
from tests.training.test_trainer import lasting, run

CUDA = torch.device("cuda")


def cramped(limit: int, head: Mean | None = None) -> Detector:
    """A detector on a device with room for ``limit`` frames."""
    detector = small_detector(head)
    forward = detector.backbone.model.forward_features

    def guarded(x: torch.Tensor) -> torch.Tensor:
        if len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        features: torch.Tensor = forward(x)
        return features

    detector.backbone.model.forward_features = guarded
    return detector


@pytest.mark.slow
def test_out_of_memory_splits_at_the_same_effective_batch(tmp_path: Path) -> None:
    val = FakeClips(2, seed=2)
    head = Mean(dropout=0.0)
    whole, one = run(tmp_path / "a", small_detector(head), epochs=2, val=val)
    parts, two = run(tmp_path / "b", cramped(6, head), epochs=2, val=FakeClips(1, seed=2), on_oom="accumulate")
    assert any("computed in 4 parts, at the same effective batch" in note for note in parts.notes)
    assert [e["train/loss"] for e in parts.history] == pytest.approx([e["train/loss"] for e in whole.history])
    assert len(list(one.parameters())) == len(list(two.parameters()))


def test_out_of_memory_ends_the_fit_unless_told_otherwise(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run(tmp_path, cramped(6))


def test_one_clip_that_does_not_fit_ends_the_fit(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run(tmp_path, cramped(1), on_oom="accumulate")


def test_parts_of_a_batch_are_the_batch() -> None:
    batch = FakeClips(5).fetch(range(10))
    parts = split_batch(batch, 4)
    assert [len(part.labels) for part in parts] == [3, 3, 2, 2]
    torch.testing.assert_close(torch.cat([part.clips for part in parts]), batch.clips)
    torch.testing.assert_close(torch.cat([part.draws for part in parts if part.draws is not None]), batch.draws)


def test_no_more_parts_than_clips() -> None:
    assert len(split_batch(FakeClips(1).fetch(range(2)), 8)) == 2


@pytest.mark.parametrize(("limit", "expected"), [(1000, 64), (40, 32), (16, 16), (3, 16)])
def test_a_device_is_tried_from_the_largest_down(limit: int, expected: int) -> None:
    def step(size: int) -> None:
        if size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert largest_batch(step, CUDA, lambda: 0.0) == expected


def test_another_error_is_not_taken_for_a_lack_of_room() -> None:
    def step(size: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        largest_batch(step, CUDA, lambda: 0.0)


def test_on_a_cpu_room_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 100e6

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    found = largest_batch(lambda size: None, torch.device("cpu"), lambda: 1.5e6)
    assert found == 32


def test_kept_bytes_count_each_tensor_once() -> None:
    weight = torch.ones(100, requires_grad=True)
    x = torch.ones(100)
    assert kept_bytes(lambda: (x * weight) + (x * weight)) == 400


def test_auto_finds_a_batch_and_says_so(tmp_path: Path) -> None:
    result, _ = run(tmp_path, train=FakeClips(40, seed=1), batch_size="auto", epochs=1)
    assert result.batch_size in SIZES
    assert any("trainer.batch_size=auto" in note for note in result.notes)


def test_looking_for_a_batch_leaves_no_trace(tmp_path: Path) -> None:
    train = FakeClips(40, seed=1)
    found, _ = run(tmp_path / "a", train=train, batch_size="auto", epochs=1)
    given, _ = run(tmp_path / "b", train=train, batch_size=found.batch_size, epochs=1)
    assert lasting(found.history) == lasting(given.history)


def test_without_trace_restores_statistics() -> None:
    layer = torch.nn.BatchNorm1d(3)
    with without_trace(layer):
        layer(torch.randn(8, 3)).sum().backward()
    assert torch.equal(layer.running_mean, torch.zeros(3))  # type: ignore[arg-type]
    assert layer.weight.grad is None


def failing_backend(module: Any, inputs: Any) -> Any:
    raise RuntimeError("this backend knows no convolutions")


def test_a_compiler_that_fails_is_left_aside_aloud() -> None:
    detector = small_detector()
    batch = FakeClips(2).fetch(range(2))
    note = compile_or_not(detector, lambda: detector(batch.clips, batch.mask), backend=failing_backend)  # type: ignore[arg-type]
    assert "this backend knows no convolutions" in note
    assert detector(batch.clips, batch.mask).logits.shape == (2,)


def test_a_compiler_that_works_changes_no_logits() -> None:
    detector, plain = small_detector().eval(), small_detector().eval()
    batch = FakeClips(2).fetch(range(2))
    assert compile_or_not(detector, lambda: detector(batch.clips, batch.mask), backend="eager") == ""
    torch.testing.assert_close(detector(batch.clips, batch.mask).logits, plain(batch.clips, batch.mask).logits)


class Clips(FakeClips):
    """Clips that take a while to read."""

    def __init__(self, seconds: float) -> None:
        super().__init__(4)
        self.seconds = seconds

    def fetch(self, items: Any, epoch: int = 0) -> Any:
        Clips.now += self.seconds
        return super().fetch(items, epoch)

    now = 0.0


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device beside four cores on which a step takes 10 ms; a batch takes as long to read as its clips say."""
    monkeypatch.setattr(autotune, "loader_workers", lambda asked, fabric: 4 if asked == "auto" else int(asked))
    monkeypatch.setattr(time, "perf_counter", lambda: Clips.now)

    def step(detector: object, batch: object, fabric: object) -> None:
        Clips.now += 0.010

    monkeypatch.setattr(autotune, "_backward", step)
    return cpu()


@pytest.mark.parametrize(("milliseconds", "workers"), [(0.1, 0), (1, 1), (10, 2), (20, 3), (100, 4)])
def test_auto_measures_how_many_keep_up(device: Any, milliseconds: float, workers: int) -> None:
    count, notes = choose_workers(small_detector(), Clips(milliseconds / 1000), "auto", 4, device)
    assert count == workers
    assert f"trainer.num_workers=auto: {workers}" in notes[0]


def test_too_few_cores_are_said(device: Any) -> None:
    _, notes = choose_workers(small_detector(), Clips(0.1), "auto", 4, device)
    assert "15 would be needed and there are cores for 4" in notes[0]


def test_a_number_is_taken_as_it_is(device: Any) -> None:
    assert choose_workers(small_detector(), Clips(0.1), 3, 4, device) == (3, [])


def test_nothing_reads_ahead_of_what_is_at_hand(device: Any) -> None:
    clips = Clips(0.1)
    clips.at_hand = True
    assert choose_workers(small_detector(), clips, 3, 4, device) == (0, [])


def test_a_cpu_keeps_its_cores_for_training() -> None:
    assert choose_workers(small_detector(), Clips(0.1), "auto", 4, cpu()) == (0, [])


def test_looking_leaves_no_trace(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = small_detector()
    choose_workers(detector, Clips(0.01), "auto", 4, device)
    assert all(parameter.grad is None for parameter in detector.parameters())


CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FLIPS = AugmentOptions(flip=0.5, brightness=0.2)


@pytest.fixture
def clips(tmp_path: Path) -> ClipSet:
    writer = StoreWriter(tmp_path)
    info = MediaInfo(8, 8, 3, 25.0, 0.12, "h264", 1000, "yuv420p", 0)
    for i, length in enumerate((3, 2, 3)):
        pixels = np.random.default_rng(i).integers(0, 256, (2, length, 8, 8, 3), np.uint8)
        lengths, frames = np.array([length, length]), np.zeros((2, length), FRAME)
        crops = Crops(pixels, lengths, frames, info, (), np.zeros((16, 16), np.uint8))
        writer.append({"sample_id": f"s{i}", "status": "ok", "clips": 2}, crops)
    writer.close()
    table = pd.DataFrame({"sample_id": ["s0", "s1", "s2"], "label": [0, 1, 0]})
    return ClipSet(CropStore(tmp_path, read_records(tmp_path)), table, augment=FLIPS, seed=4)


def test_a_batch_is_the_stores(clips: ClipSet) -> None:
    ours, theirs = DeviceClips(clips, CPU).fetch([5, 2, 0], 3), clips.fetch([5, 2, 0], 3)
    for name in ("clips", "mask", "labels", "samples", "draws"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_clips_larger_than_a_block_are_copied_whole(clips: ClipSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "_BLOCK", 700)
    assert torch.equal(DeviceClips(clips, CPU).fetch(range(6)).clips, clips.fetch(range(6)).clips)


def test_no_process_reads_what_is_at_hand(clips: ClipSet) -> None:
    (batch,) = DeviceClips(clips, CPU).read([[1, 2]], workers=4)
    assert torch.equal(batch.clips, clips.fetch([1, 2]).clips)


def test_a_cpu_changes_nothing(clips: ClipSet) -> None:
    splits = {"train": clips}
    assert to_device(splits, CPU, 10**12) == (splits, "")


def test_what_does_not_fit_stays_and_is_said(clips: ClipSet) -> None:
    splits = {"train": clips}
    kept, told = to_device(splits, CUDA, 1000)
    assert kept is splits
    assert "do not fit" in told


def test_a_device_without_room_after_all_is_no_error(clips: ClipSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(clips: ClipSet, device: torch.device) -> DeviceClips:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(autotune, "DeviceClips", full)
    splits = {"train": clips}
    kept, told = to_device(splits, CUDA, 10**12)
    assert kept is splits
    assert "did not fit" in told


def test_changes_to_single_pixels_keep_clips_where_they_are_read(clips: ClipSet) -> None:
    clips.augment = replace(FLIPS, jpeg=0.5)
    kept, told = to_device({"train": clips}, CUDA, 10**12)
    assert kept["train"] is clips
    assert "augment" in told
