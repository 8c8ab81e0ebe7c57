"""Whole splits as uint8 in a device's memory, where they fit: no disk, no copy per step. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from deepfake.data.clips import Batch, ClipSet, ClipSource
from deepfake.training.autotune import is_out_of_memory

#: The fraction of the free memory that clips may take: the model, its gradients and activations want the rest.
_FRACTION = 0.4
_BLOCK = 256 << 20  # bytes copied at once


class DeviceClips(ClipSource):
    """A clip set whose pixels lie on a device; batches are gathered there.

    Random changes are drawn as the clip set draws them and all done on the device: those to single pixels cannot be.

    Args:
        clips: The clip set.
        device: Gets all of it, in blocks.
    """

    at_hand = True

    def __init__(self, clips: ClipSet, device: torch.device) -> None:
        self.describe_as(clips)
        self._clips = clips
        self._pixels = torch.empty((len(clips), *clips.shape), dtype=torch.uint8, device=device)
        step = max(1, _BLOCK // max(1, math.prod(clips.shape)))
        for start in range(0, len(clips), step):
            items = np.arange(start, min(start + step, len(clips)))
            self._pixels[start : start + len(items)] = clips.pixels(items).to(device)

    def fetch(self, items: Sequence[int], epoch: int = 0) -> Batch:
        """The clips of these items, gathered on the device."""
        chosen = np.asarray(items, np.int64)
        index = torch.from_numpy(chosen).to(self._pixels.device, non_blocking=True)
        batch = self._clips.batch(chosen, self._pixels.index_select(0, index), self._clips.draw(chosen, epoch))
        return batch.to(self._pixels.device, non_blocking=True)


def to_device(
    splits: Mapping[str, ClipSource], device: torch.device, free: int
) -> tuple[Mapping[str, ClipSource], str]:
    """All splits on the device, or as they are.

    Args:
        splits: Clip sets by split.
        device: Where to; a CPU's memory is no nearer than the page cache, so there nothing changes.
        free: Bytes it has free.

    Returns:
        The splits, and what to tell the user; empty where nothing was tried.
    """
    sets = {name: clips for name, clips in splits.items() if isinstance(clips, ClipSet)}
    if device.type == "cpu" or len(sets) < len(splits):
        return splits, ""
    if any(clips.changes_pixels for clips in sets.values()):
        return splits, "dataset.on_device=auto: jpeg, blur and noise are done where clips are read, so they stay there"
    size = sum(len(clips) * math.prod(clips.shape) for clips in sets.values())
    amount = f"{size / 1e9:.1f} GB of clips"
    if size > _FRACTION * free:
        return splits, f"dataset.on_device=auto: {amount} do not fit beside the rest ({free / 1e9:.1f} GB free)"
    try:
        return {name: DeviceClips(clips, device) for name, clips in sets.items()}, f"{amount} are kept on {device}"
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return splits, f"dataset.on_device=auto: {amount} did not fit: read from the crop store"
