"""Prepared crops into batches of clips. Knows no file format, no model and no device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from deepfake.data.augment import Draw, change_pixels, draw, uses_device, uses_pixels
from deepfake.data.batch import Batch
from deepfake.data.loader import Readable
from deepfake.data.media import Pixels
from deepfake.data.options import AugmentOptions
from deepfake.data.store import CropStore


class ClipSet(Readable):
    """The clips of some samples, read from a crop store a batch at a time.

    Args:
        store: Where their crops are.
        table: Manifest rows; those that could not be prepared are kept, and give no clips.
        augment: Random changes, for training; None leaves clips as they are.
        seed: Of the random changes.

    Attributes:
        table: The rows, indexed from 0, with a ``status``: ``ok``, or why a sample gives no clips.
        items: int64 [items, 2]: row of the table and clip of the sample; one item is one clip.
        labels: float32 [items]; 1 is fake.
        shape: T, H, W, C of a clip; the longest in the set, shorter ones are filled up.
        lengths: int64 [items]: frames of each clip that are no fillers.
    """

    def __init__(
        self, store: CropStore, table: pd.DataFrame, *, augment: AugmentOptions | None = None, seed: int = 0
    ) -> None:
        self.store = store
        self.table = table.reset_index(drop=True)
        self.seed = seed
        self.augment = augment
        rows = [(row, store.records.get(key)) for row, key in enumerate(self.table["sample_id"])]
        self.table["status"] = ["missing" if record is None else record["status"] for _, record in rows]
        ready = [(row, record) for row, record in rows if record is not None and record["status"] == "ok"]
        self.shape = tuple(map(max, zip(*(r["shape"][1:] for _, r in ready), strict=True))) if ready else (0, 0, 0, 3)
        # Where each item lies, as plain arrays: part, first byte, bytes, frames that are no fillers.
        self._parts = sorted({record["part"] for _, record in ready})
        numbers = {part: i for i, part in enumerate(self._parts)}
        counts = np.array([record["clips"] for _, record in ready], np.int64)
        first = np.cumsum(counts) - counts
        clip = np.arange(counts.sum()) - np.repeat(first, counts)
        self.items = np.stack([_repeat([row for row, _ in ready], counts), clip], 1)
        self.labels = self.table["label"].to_numpy(np.float32)[self.items[:, 0]]
        self._part = _repeat([numbers[record["part"]] for _, record in ready], counts)
        self._size = _repeat([math.prod(record["shape"][1:]) for _, record in ready], counts)
        self._start = _repeat([record["offset"] for _, record in ready], counts) + self._size * clip
        self.lengths = np.array([length for _, record in ready for length in record["lengths"]], np.int64)

    def __len__(self) -> int:
        """The number of clips."""
        return len(self.items)

    def fetch(self, items: Sequence[int] | np.ndarray, epoch: int = 0) -> Batch:
        """Gather clips and change them at random; an item's changes depend on (seed, epoch, item) only."""
        chosen = np.asarray(items, np.int64)
        pixels = self.pixels(chosen)
        drawn = self.draw(chosen, epoch)
        for clip, one in zip(pixels.numpy(), drawn, strict=bool(drawn)):
            if one.changes_pixels:
                change_pixels(clip, one)
        return self.batch(chosen, pixels, drawn)

    @property
    def changes_pixels(self) -> bool:
        """Whether random changes are done here, before the device."""
        return self.augment is not None and uses_pixels(self.augment)

    def pixels(self, items: np.ndarray) -> torch.Tensor:
        """Clips uint8 [B, T, H, W, C] as they are in the store."""
        # numpy asks the kernel for huge pages, torch does not: a batch is fresh memory, and 4 KiB page faults would
        # cost more than the copy.
        pixels = np.empty((len(items), *self.shape), np.uint8)
        self._gather(items, pixels)
        return torch.from_numpy(pixels)

    def draw(self, items: np.ndarray, epoch: int) -> list[Draw]:
        """What happens to each of these items in an epoch; an empty list where nothing ever does."""
        if self.augment is None or not (uses_device(self.augment) or uses_pixels(self.augment)):
            return []
        return [draw(self.augment, self.seed, epoch, item) for item in items.tolist()]

    def batch(self, items: np.ndarray, pixels: torch.Tensor, drawn: list[Draw]) -> Batch:
        """Clips [B, T, H, W, C] with all that belongs to them; what is drawn for the device is left to be done."""
        later = drawn and self.augment is not None and uses_device(self.augment)
        return Batch(
            clips=pixels.permute(0, 1, 4, 2, 3),
            mask=torch.from_numpy(np.arange(self.shape[0]) < self.lengths[items][:, None]),
            labels=torch.from_numpy(self.labels[items]),
            samples=torch.from_numpy(self.items[items, 0]),
            draws=torch.from_numpy(np.stack([one.device for one in drawn])) if later else None,
        )

    def __getitem__(self, item: int) -> Batch:
        """One clip, unchanged at random only where ``augment`` is None; for looking at."""
        return self.fetch([item])

    def _gather(self, chosen: np.ndarray, out: Pixels) -> None:
        flat = out.reshape(len(chosen), -1)
        size = flat.shape[1]
        for place, item in enumerate(chosen.tolist()):
            start, length = int(self._start[item]), int(self._size[item])
            flat[place, :length] = self.store.pixels(self._parts[self._part[item]])[start : start + length]
            if length < size:
                kept = length // (size // out.shape[1])
                out[place, kept:] = out[place, kept - 1]


def _repeat(values: list[int], counts: np.ndarray) -> np.ndarray:
    """Each sample's value once for each of its clips, int64 [items]."""
    return np.repeat(np.array(values, np.int64), counts)
