"""What is tried on the device before a fit begins: how large a batch may be, who reads it, whether it compiles."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric

from deepfake.data.batch import Batch
from deepfake.models.detector import Detector
from deepfake.training.checkpoint import load_state
from deepfake.training.compiling import compile_or_not
from deepfake.training.gather import gather
from deepfake.training.memory import SIZES, kept_bytes, largest_batch, without_trace
from deepfake.training.setup import loader_workers
from deepfake.training.source import ClipSource

#: So many times what keeps up on the average: clips and disks differ.
_AMPLE = 1.5


def choose_batch_size(
    detector: Detector, train: ClipSource, asked: int | str, fabric: Fabric, resumed: Path | None
) -> tuple[int, list[str]]:
    """The batch size asked for, or for ``auto`` the largest of ``memory.SIZES`` that fits.

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
    if resumed is not None and resumed.is_file():
        return int(load_state(resumed)["identity"]["batch_size"]), []
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
    # Read in this process, a batch would cost the host its head start; a twentieth of a step is too little to notice.
    needed = 0 if reading < step / 20 else math.ceil(_AMPLE * reading / step)
    count = min(most, needed)
    told = f"a batch is read in {1000 * reading:.1f} ms, a step takes {1000 * step:.1f} ms"
    short = "" if needed <= most else f", {needed} would be needed and there are cores for {most}"
    return count, [f"trainer.num_workers=auto: {count} ({told}{short})"]


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
