"""Where an epoch's time goes, by part, without making the device wait, and how long a detector takes for one clip."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.utils.flop_counter import FlopCounterMode

from deepfake.metrics import EPOCH_PARTS
from deepfake.models.detector import Detector

#: Dense 16-bit operations a second by what a device's name holds, without sparsity.
PEAKS = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
    "T4": 65e12,
}


class Clock:
    """Seconds by part. Switched off it hands out one empty context and costs nothing.

    On a CUDA device times are taken by events in its own queue, read once an epoch; waiting for data and all else
    that keeps only the host busy is taken by the host's clock.

    Args:
        device: What does the work.
        on: Whether to measure.
    """

    _idle = nullcontext()
    _on_host = frozenset({"data_wait", "validation", "logging"})

    def __init__(self, device: torch.device, on: bool) -> None:
        self.on = on
        self._cuda = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def __call__(self, part: str) -> AbstractContextManager[None]:
        """A block whose time counts as ``part``."""
        return self._measured(part) if self.on else self._idle

    @contextmanager
    def _measured(self, part: str) -> Iterator[None]:
        if self._cuda and part not in self._on_host:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            first.record()
            yield
            last.record()
            self._events.append((part, first, last))
        else:
            began = time.perf_counter()
            yield
            self._seconds[part] += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Seconds by part since the last reading, as ``profile/<part>``; empty when off. Waits for the device."""
        if not self.on:
            return {}
        if self._events:
            torch.cuda.synchronize()
            for part, first, last in self._events:
                self._seconds[part] += first.elapsed_time(last) / 1000
        seconds = {f"profile/{part}": self._seconds[part] for part in EPOCH_PARTS}
        self._seconds.clear()
        self._events.clear()
        return seconds


def waiting_note(history: Sequence[Mapping[str, float]]) -> list[str]:
    """What would help, where training waited for data more than a tenth of its time; empty where it did not.

    Args:
        history: Epochs' metrics. The first is left out where there are more: it warms caches.
    """
    epochs = [epoch for epoch in history[1:] or history if "profile/data_wait" in epoch]
    training = ("data_wait", "transfer", "forward", "backward", "optimizer")
    total = sum(epoch[f"profile/{part}"] for epoch in epochs for part in training)
    fraction = sum(epoch["profile/data_wait"] for epoch in epochs) / total if total else 0.0
    if fraction <= 0.1:
        return []
    return [
        f"training waited for clips {fraction:.0%} of its time: more trainer.num_workers, a faster disk for "
        "paths.outputs or fewer augmentations on the CPU (jpeg, blur, noise) would help"
    ]


def peak_memory(device: torch.device) -> float:
    """The most memory in use at once so far, in bytes: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    # What the system saw, not torch alone.
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset)
    import resource

    # Linux counts in KiB, macOS in bytes.
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def restart_peak_memory(device: torch.device) -> None:
    """Let :func:`peak_memory` count from here, where the system lets it: a process that trains runs one after another
    would tell each one the most of all so far. What the process holds already still counts.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Linux alone; elsewhere, and where the file may not be written, the process's peak stays.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def clip_flops(detector: Detector, clips: torch.Tensor, mask: torch.Tensor) -> float:
    """Floating-point operations of training on one clip, as torch counts them.

    What is trained costs its forward pass three times (Kaplan et al. 2020, arXiv:2001.08361), a frozen backbone once.
    Of one that is trained in part the gradients are counted.

    Args:
        detector: Its mode is put back afterwards.
        clips: [1, T, C, H, W] on its device.
        mask: [1, T].
    """
    was_training = detector.training
    detector.eval()
    in_part = bool(detector.backbone.fixed)
    with FlopCounterMode(display=False) as backbone, torch.set_grad_enabled(in_part):
        features = detector.extract(clips)
        if in_part:
            features.sum().backward()  # type: ignore[no-untyped-call]
    with FlopCounterMode(display=False) as head, torch.no_grad():
        detector.classify(features, mask)
    detector.zero_grad(set_to_none=True)
    detector.train(was_training)
    times = 1 if detector.freeze or in_part else 3
    return float(times * backbone.get_total_flops() + 3 * head.get_total_flops())


def peak_flops(device: torch.device, precision: str) -> float | None:
    """What a device could do at best in 16 bits, from its maker's tables; None where that says nothing of it."""
    if device.type != "cuda" or "16" not in precision:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for model, peak in PEAKS.items() if model in name), None)


WARM_UPS, REPETITIONS = 2, 7
#: Seconds after which a slow detector is measured no further, once there are a few repetitions.
ENOUGH, FEWEST = 5.0, 3


def latency_ms(detector: Detector, frames: int, size: int, fabric: Fabric) -> float:
    """The median milliseconds of a forward pass at batch 1, in evaluation mode and the run's precision.

    Args:
        detector: Its mode is put back. One that reads stored features is measured as the whole detector it is of.
        frames: Of the clip, T.
        size: Height and width in pixels.
        fabric: Device and precision.
    """
    whole = detector
    if type(detector).extract is not Detector.extract:
        whole = detector.of_pixels(freeze=detector.freeze).to(fabric.device)
    was_training = detector.training
    whole.eval()
    clip = torch.zeros(1, frames, 3, size, size, dtype=torch.uint8, device=fabric.device)
    mask = torch.ones(1, frames, dtype=torch.bool, device=fabric.device)
    times: list[float] = []
    began = time.perf_counter()
    with torch.inference_mode(), fabric.autocast():
        for number in range(WARM_UPS + REPETITIONS):
            start = time.perf_counter()
            # Reading the logit waits for the device.
            whole(clip, mask).logits.item()
            if number >= WARM_UPS:
                times.append(time.perf_counter() - start)
            if len(times) >= FEWEST and time.perf_counter() - began > ENOUGH:
                break
    whole.train(was_training)
    return 1000 * statistics.median(times)
