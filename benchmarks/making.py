"""Crop stores made on the spot for the benchmarks: moving soft shapes, fakes with a patch. Needs no data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from deepfake.data.clips import ClipSet
from deepfake.data.crop_records import StoreWriter, read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import FRAME, Crops
from deepfake.data.media import MediaInfo


def clip(number: int, fake: bool, frames: int, size: int) -> np.ndarray:
    """One clip uint8 [T, S, S, 3]; some fakes' patches are faint, so that no detector finds them all."""
    import cv2

    rng = np.random.default_rng(number)
    shapes = rng.integers(0, 200, (6, 6, 3), np.uint8)
    soft = cv2.resize(shapes, (size + frames, size + frames), interpolation=cv2.INTER_CUBIC)
    moved = np.stack([soft[t : t + size, t : t + size] for t in range(frames)]).astype(np.float32)
    moved += rng.normal(0, 6, moved.shape).astype(np.float32)
    if fake:
        y, x = rng.integers(0, size // 2, 2)
        # Redder, as a random backbone sees colours best.
        moved[:, y : y + size // 2, x : x + size // 2, 0] += rng.uniform(20, 120)
    return moved.clip(0, 255).astype(np.uint8)


def make_splits(folder: Path, counts: Mapping[str, int], frames: int, size: int) -> dict[str, ClipSet]:
    """A store with so many clips for each split, one a sample, half of them fake.

    Args:
        folder: Gets the store.
        counts: Clips by split.
        frames: Frames of a clip.
        size: Side of a frame in pixels.
    """
    writer = StoreWriter(folder)
    info = MediaInfo(size, size, frames, 25.0, frames / 25, "h264", 0, "yuv420p", 0)
    rows = []
    for split, count in counts.items():
        for i in range(count):
            pixels = clip(len(rows), i % 2 == 1, frames, size)[None]
            crops = Crops(
                pixels, np.array([frames]), np.zeros((1, frames), FRAME), info, (), np.zeros((16, 16), np.uint8)
            )
            name = f"{split}/{i:05d}"
            writer.append({"sample_id": name, "status": "ok", "clips": 1, "sha256": name}, crops)
            rows.append({"sample_id": name, "label": i % 2, "method": "Patch" if i % 2 else "real", "split": split})
    writer.close()
    store = CropStore(folder, read_records(folder))
    table = pd.DataFrame(rows).assign(dataset="made")
    return {split: ClipSet(store, table[table["split"] == split]) for split in counts}
