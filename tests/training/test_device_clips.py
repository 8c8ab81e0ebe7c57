"""Clips in a device's memory are the clips of the store; what cannot lie there stays where it is, and that is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
from deepfake.training import device_clips
from deepfake.training.device_clips import DeviceClips, to_device

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
    monkeypatch.setattr(device_clips, "_BLOCK", 700)
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

    monkeypatch.setattr(device_clips, "DeviceClips", full)
    splits = {"train": clips}
    kept, told = to_device(splits, CUDA, 10**12)
    assert kept is splits
    assert "did not fit" in told


def test_changes_to_single_pixels_keep_clips_where_they_are_read(clips: ClipSet) -> None:
    clips.augment = replace(FLIPS, jpeg=0.5)
    kept, told = to_device({"train": clips}, CUDA, 10**12)
    assert kept["train"] is clips
    assert "jpeg" in told
