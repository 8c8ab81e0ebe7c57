"""Batches to the device beside its work. Knows nothing of what is in them."""

from __future__ import annotations

import torch

from deepfake.data.batch import Batch


class Transfer:
    """Copies batches to a device; on CUDA in a queue of its own, so that a copy overlaps the step before it.

    The host runs ahead of the device: while one step is computed the next batch is copied, so that two batches are on
    the device at a time. Only batches in page-locked memory can be copied so; others arrive all the same, later.

    Args:
        device: Where batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._queue: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._queue = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, batch: Batch) -> Batch:
        """The batch on the device; what is queued after this waits for it, the host does not."""
        if self._queue is None:
            return batch.to(self._device)
        with torch.cuda.stream(self._queue):
            moved = batch.to(self._device, non_blocking=True)
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._queue)
        for tensor in (moved.clips, moved.mask, moved.labels, moved.samples, moved.draws):
            if tensor is not None:
                # Its memory belongs to the other queue, which must not reuse it before this one is done with it.
                tensor.record_stream(now)
        return moved
