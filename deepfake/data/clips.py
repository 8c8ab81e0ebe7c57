"""Prepared crops into batches of clips. Knows no file format, no model and no device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from deepfake.data.augment import change_pixels, draw, uses_device, uses_pixels
from deepfake.data.batch import Batch
from deepfake.data.media import Pixels
from deepfake.data.options import AugmentOptions
from deepfake.data.store import CropStore


class ClipSet(Dataset[Batch]):
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

    #: Reading takes time, which loader processes can take over.
    at_hand = False

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
        time, height, width, channels = self.shape
        pixels = torch.empty((len(chosen), time, height, width, channels), dtype=torch.uint8)
        self._gather(chosen, pixels.numpy())
        draws = self._change(chosen, epoch, pixels.numpy())
        mask = torch.from_numpy(np.arange(time) < self.lengths[chosen][:, None])
        return Batch(
            clips=pixels.permute(0, 1, 4, 2, 3),
            mask=mask,
            labels=torch.from_numpy(self.labels[chosen]),
            samples=torch.from_numpy(self.items[chosen, 0]),
            draws=draws,
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

    def _change(self, chosen: np.ndarray, epoch: int, pixels: Pixels) -> torch.Tensor | None:
        if self.augment is None or not (uses_device(self.augment) or uses_pixels(self.augment)):
            return None
        drawn = [draw(self.augment, self.seed, epoch, item) for item in chosen.tolist()]
        for clip, one in zip(pixels, drawn, strict=True):
            if one.changes_pixels:
                change_pixels(clip, one)
        return torch.from_numpy(np.stack([one.device for one in drawn])) if uses_device(self.augment) else None


def _repeat(values: list[int], counts: np.ndarray) -> np.ndarray:
    """Each sample's value once for each of its clips, int64 [items]."""
    return np.repeat(np.array(values, np.int64), counts)


class _Batches(Dataset[Batch]):
    """Each index is a whole batch, so that workers hand over batches and not clips."""

    def __init__(self, clips: ClipSet, batches: Sequence[Sequence[int]], epoch: int) -> None:
        self.clips = clips
        self.batches = batches
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, place: int) -> Batch:
        return self.clips.fetch(self.batches[place], self.epoch)


def make_loader(
    clipset: ClipSet, batches: Sequence[Sequence[int]], epoch: int, num_workers: int = 0, pin: bool = False
) -> Iterable[Batch]:
    """Batches in the order given.

    Args:
        clipset: Where the clips come from.
        batches: The items of each batch.
        epoch: Enters the random changes.
        num_workers: Processes that read ahead; 0 reads in this one, when asked.
        pin: Hand batches over in page-locked memory, for a faster way to a GPU.
    """
    if num_workers == 0:
        return _InProcess(clipset, batches, epoch, pin)
    return DataLoader(
        _Batches(clipset, batches, epoch),
        batch_size=None,  # an index is a batch already
        num_workers=num_workers,
        pin_memory=pin,
        prefetch_factor=2,
    )


class _InProcess:
    """A plain loop that can be run through more than once."""

    def __init__(self, clipset: ClipSet, batches: Sequence[Sequence[int]], epoch: int, pin: bool) -> None:
        self._clipset = clipset
        self._batches = batches
        self._epoch = epoch
        self._pin = pin

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for items in self._batches:
            batch = self._clipset.fetch(items, self._epoch)
            yield batch.pin_memory() if self._pin else batch
