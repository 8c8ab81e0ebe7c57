"""How many clips fit a device at once, and what to do when they do not. Knows no epochs.

A trial step leaves no trace: gradients are dropped and buffers put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from deepfake.data.batch import Batch

#: What ``trainer.batch_size=auto`` chooses from, largest first.
SIZES = (64, 48, 32, 24, 16)
#: The share of the free memory that a step may be expected to need.
_SHARE = 0.6


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device, or the host, has no room."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """A batch as at most ``parts`` smaller ones, in order; their clips together are its own."""
    parts = min(parts, len(batch.labels))

    def pieces(tensor: Tensor) -> list[Tensor]:
        return list(torch.tensor_split(tensor, parts))

    draws = [None] * parts if batch.draws is None else pieces(batch.draws)
    rows = zip(pieces(batch.clips), pieces(batch.mask), pieces(batch.labels), pieces(batch.samples), draws, strict=True)
    return [Batch(*row) for row in rows]


@contextmanager
def without_trace(model: nn.Module) -> Iterator[None]:
    """A block after which buffers are as before and gradients are gone."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, kept in before:
                buffer.copy_(kept)


def largest_batch(step: Callable[[int], None], device: torch.device, bytes_per_clip: Callable[[], float]) -> int:
    """The largest of :data:`SIZES` that a training step fits at, or the smallest of them if none does.

    Args:
        step: Runs a forward and backward pass over so many clips.
        device: CUDA is tried for real; elsewhere running out kills the process, so it is foreseen instead.
        bytes_per_clip: What a step keeps for each clip.
    """
    if device.type != "cuda":
        import psutil

        room = _SHARE * psutil.virtual_memory().available
        needed = max(1.0, bytes_per_clip())
        return next((size for size in SIZES if size * needed <= room), SIZES[-1])
    for size in SIZES:
        try:
            step(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
        else:
            return size
    return SIZES[-1]


def kept_bytes(run: Callable[[], object]) -> float:
    """Bytes that a forward pass keeps for its backward pass, each tensor counted once."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # The result holds what was kept; storages freed meanwhile would be counted under others' addresses.
        result = run()
    total = float(sum(seen.values()))
    del result
    return total
