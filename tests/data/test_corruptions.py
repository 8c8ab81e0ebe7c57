"""Damage to clips: every kind changes pixels, keeps shapes and repeats itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from deepfake.data.clips import Batch, ClipSource
from deepfake.data.corruptions import KINDS, DamagedClips
from tests.data.making import numbered


def clip(frames: int = 6, size: int = 48) -> np.ndarray:
    return np.stack([numbered(n, size, size) for n in range(frames)])


class OneClip(ClipSource):
    """Two clips of four frames, the second of which is one frame short."""

    def __init__(self) -> None:
        self.table = pd.DataFrame({"sample_id": ["a", "b"]})
        self.items = np.array([[0, 0], [1, 0]])
        self.labels = np.zeros(2, np.float32)
        self.lengths = np.array([4, 3])
        self.pixels = np.stack([clip(4), clip(4)])
        self.pixels[1, 3] = self.pixels[1, 2]

    def __len__(self) -> int:
        return 2

    def fetch(self, items: list[int], epoch: int = 0) -> Batch:
        mask = torch.arange(4) < torch.from_numpy(self.lengths[items])[:, None]
        clips = torch.from_numpy(self.pixels[items].copy()).permute(0, 1, 4, 2, 3)
        return Batch(clips, mask, torch.zeros(len(items)), torch.tensor(items))


@pytest.mark.parametrize("name", KINDS)
def test_every_severity_keeps_the_shape_and_changes_pixels(name: str) -> None:
    kind, before = KINDS[name], clip()
    for severity in kind.severities:
        damaged = kind.apply(before.copy(), severity, 7)
        assert (damaged.shape, damaged.dtype) == (before.shape, np.uint8)
    assert (damaged != before).any()


@pytest.mark.parametrize("name", KINDS)
def test_the_hardest_is_further_from_the_original_than_the_mildest(name: str) -> None:
    kind, before = KINDS[name], clip(12)
    mild, hard = (
        np.abs(kind.apply(before.copy(), severity, 3).astype(int) - before).mean()
        for severity in (kind.severities[0], kind.severities[-1])
    )
    assert hard > mild


@pytest.mark.parametrize("name", KINDS)
def test_the_same_clip_is_damaged_alike_every_time(name: str) -> None:
    kind = KINDS[name]
    first, second = (kind.apply(clip(), kind.severities[-1], 5) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.over_time])
def test_a_single_frame_of_odd_size_is_taken_too(name: str) -> None:
    kind = KINDS[name]
    assert kind.apply(clip(1, 47), kind.severities[0], 0).shape == (1, 47, 47, 3)


def test_dropped_frames_show_the_one_before() -> None:
    before = clip(12)
    damaged = KINDS["frames dropped"].apply(before, 0.5, 1)
    shown = [next(i for i in range(12) if (before[i] == frame).all()) for frame in damaged]
    assert shown[0] == 0
    assert all(a in (b, i) for i, (a, b) in enumerate(zip(shown[1:], shown[:-1], strict=True), start=1))


def test_fillers_stay_copies_of_the_last_frame() -> None:
    source = DamagedClips(OneClip(), KINDS["noise"], 16)  # type: ignore[arg-type]
    batch = source.fetch([0, 1], 0)
    assert batch.clips.shape == (2, 4, 3, 48, 48)
    assert torch.equal(batch.clips[1, 3], batch.clips[1, 2])
    assert not torch.equal(batch.clips[0, 3], batch.clips[0, 2])
