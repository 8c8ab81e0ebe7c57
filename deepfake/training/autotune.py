"""What is tried on the device before a fit: how large a batch may be, who reads it, whether it compiles, what it holds.

A trial step leaves no trace: gradients are dropped and buffers put back. Whole splits lie as uint8 in the device's
memory where they fit: no disk, no copy per step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from deepfake.compat import forget_compiled
from deepfake.data.clips import Batch, ClipSet, ClipSource
from deepfake.models.detector import Detector
from deepfake.training.checkpoint import damaged_state, load_state
from deepfake.training.runtime import gather, loader_workers

#: What ``trainer.batch_size=auto`` chooses from, largest first.
SIZES = (64, 48, 32, 24, 16)
#: The fraction of the free memory that a step may be expected to need.
_STEP_FRACTION = 0.6


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device, or the host, has no room."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """A batch as at most ``parts`` smaller ones, in order; their clips together are its own."""
    parts = min(parts, len(batch.labels))

    held = {name: torch.tensor_split(tensor, parts) for name, tensor in vars(batch).items() if tensor is not None}
    return [replace(batch, **{name: pieces[i] for name, pieces in held.items()}) for i in range(parts)]


@contextmanager
def without_trace(model: nn.Module) -> Iterator[None]:
    """A block after which buffers are as before and gradients are gone."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, values in before:
                buffer.copy_(values)


def largest_batch(step: Callable[[int], None], device: torch.device, bytes_per_clip: Callable[[], float]) -> int:
    """The largest of :data:`SIZES` that a training step fits at, or the smallest of them if none does.

    Args:
        step: Runs a forward and backward pass over so many clips.
        device: CUDA is tried for real; elsewhere running out kills the process, so it is foreseen instead.
        bytes_per_clip: What a step keeps for each clip.
    """
    if device.type != "cuda":
        import psutil

        room = _STEP_FRACTION * psutil.virtual_memory().available
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


def compile_or_not(model: nn.Module, step: Callable[[], None], backend: str = "inductor") -> str:
    """Compile a module in place, and take it back if a step fails with it.

    Args:
        model: Its ``forward`` is compiled at its first call.
        step: Runs a forward and backward pass through it.
        backend: One of torch's.

    Returns:
        Empty, or a note that says why the module runs as it was.
    """
    model.compile(backend=backend)
    try:
        with without_trace(model):
            step()
    # Compilers fail in as many ways as there are models; whatever it was, the module itself still works.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        forget_compiled(model)
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"trainer.compile=true failed here and was left aside: {reason[:200]}"
    return ""


#: So many times what keeps up on the average: clips and disks differ.
_AMPLE = 1.5


def choose_batch_size(
    detector: Detector, train: ClipSource, asked: int | str, fabric: Fabric, resumed: Path | None
) -> tuple[int, list[str]]:
    """The batch size asked for, or for ``auto`` the largest of :data:`SIZES` that fits.

    Args:
        detector: On the device; left as it was.
        train: Where trial clips come from.
        asked: A number or ``auto``.
        fabric: With several processes, each must fit its share, and the smallest room decides.
        resumed: The state of the fit that is gone on with, whose size is kept; None begins anew.

    Returns:
        Clips a step over all processes, and notes for the user.
    """
    if asked != "auto":
        return int(asked), []
    if resumed is not None and resumed.exists():
        try:
            return int(load_state(resumed)["identity"]["batch_size"]), []
        except (KeyError, TypeError, ValueError) as error:
            raise damaged_state(resumed, f"{type(error).__name__}: {error}") from error
    if len(train) == 0:
        return SIZES[-1], []
    processes = fabric.world_size
    detector.train()

    def step(size: int) -> None:
        with without_trace(detector):
            _backward(detector, _trial(train, -(-size // processes)), fabric)

    def bytes_per_clip() -> float:
        with without_trace(detector):
            batch = _trial(train, 2)
            return kept_bytes(lambda: _forward(detector, batch, fabric)) / 2

    fits = min(gather(largest_batch(step, fabric.device, bytes_per_clip), fabric))
    return fits, [f"trainer.batch_size=auto: {fits}, the largest of {', '.join(map(str, SIZES))} that fits"]


def choose_workers(
    detector: Detector, train: ClipSource, asked: int | str, size: int, fabric: Fabric
) -> tuple[int, list[str]]:
    """The loader processes asked for, or for ``auto`` as many as keep up with the device.

    Args:
        detector: On the device; left as it was.
        train: What is read.
        asked: A number or ``auto``, which measures a step and the reading of its batch.
        size: Clips a step on this process.
        fabric: Says how many there are cores for: none on a CPU, which they would take from training.

    Returns:
        Processes, and notes for the user.
    """
    most = 0 if train.at_hand else loader_workers(asked, fabric)
    if asked != "auto" or most == 0 or len(train) == 0:
        return most, []
    detector.train()
    batch = _trial(train, size)
    reading = _seconds(lambda: _trial(train, size), fabric)
    with without_trace(detector):
        step = _seconds(lambda: _backward(detector, batch, fabric), fabric)
    # Reading in this process delays the host's next step; a twentieth of a step is too little to notice.
    needed = 0 if reading < step / 20 else math.ceil(_AMPLE * reading / step)
    count = min(most, needed)
    times = f"a batch is read in {1000 * reading:.1f} ms, a step takes {1000 * step:.1f} ms"
    short = "" if needed <= most else f", {needed} would be needed and there are cores for {most}"
    return count, [f"trainer.num_workers=auto: {count} ({times}{short})"]


def try_to_compile(detector: Detector, train: ClipSource, size: int, fabric: Fabric) -> list[str]:
    """Compile in place where that works; the note that says why not, where it does not."""
    detector.train()
    note = compile_or_not(detector, lambda: _backward(detector, _trial(train, size), fabric))
    return [note] if note else []


def _seconds(run: Callable[[], object], fabric: Fabric) -> float:
    """The faster of two runs after one that warms up."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        if fabric.device.type == "cuda":
            torch.cuda.synchronize(fabric.device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _trial(train: ClipSource, size: int) -> Batch:
    """So many clips, the same ones again where there are too few."""
    return train.fetch([i % len(train) for i in range(size)], 0)


def _forward(detector: Detector, batch: Batch, fabric: Fabric) -> object:
    moved = batch.to(fabric.device)
    with fabric.autocast():
        return detector(moved.clips, moved.mask)


def _backward(detector: Detector, batch: Batch, fabric: Fabric) -> None:
    moved = batch.to(fabric.device)
    with fabric.autocast():
        loss = detector(moved.clips, moved.mask).logits.sum()
    loss.backward()


#: The fraction of the free memory that clips may take: the model, its gradients and activations want the rest.
_CLIPS_FRACTION = 0.4
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
        return splits, "dataset.on_device=auto: augment changes pixels where clips are read, so they stay there"
    size = sum(len(clips) * math.prod(clips.shape) for clips in sets.values())
    amount = f"{size / 1e9:.1f} GB of clips"
    if size > _CLIPS_FRACTION * free:
        return splits, f"dataset.on_device=auto: {amount} do not fit beside the rest ({free / 1e9:.1f} GB free)"
    try:
        return {name: DeviceClips(clips, device) for name, clips in sets.items()}, f"{amount} are kept on {device}"
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return splits, f"dataset.on_device=auto: {amount} did not fit: read from the crop store"
