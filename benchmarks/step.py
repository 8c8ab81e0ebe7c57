"""Our training step against the same step written out in bare PyTorch, on the tiny model.

    python -m benchmarks.step

Needs no data and no network; takes about a minute on two cores. One thread, same weights, same clips, same optimizer;
the ways take turns, a few steps each, so that a busy machine slows them alike.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional as F

from benchmarks.measure import in_turns, machine, report, row
from deepfake.data.clips import Batch
from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, Lstm
from deepfake.training.optimizers import Schedule, create_optimizer, create_schedule, parameter_groups
from deepfake.training.options import AdamW, Cosine, TrainerOptions
from deepfake.training.profiling import Clock
from deepfake.training.runtime import create_fabric
from deepfake.training.train_step import EpochSums, Loss, Updater

BATCH, FRAMES, SIZE, ROUNDS, STEPS = 8, 8, 64, 25, 2
LR, UPDATES = 1e-3, 10_000


def make_batch(clips: int = BATCH, frames: int = FRAMES, size: int = SIZE) -> Batch:
    """Clips of noise; what is in them costs nothing."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (clips, frames, size, size, 3), dtype=np.uint8)
    return Batch(
        clips=torch.from_numpy(pixels).permute(0, 1, 4, 2, 3),
        mask=torch.ones(clips, frames, dtype=torch.bool),
        labels=torch.arange(clips).remainder(2).float(),
        samples=torch.arange(clips),
    )


def updater_for(
    detector: Detector, fabric: Fabric, *, profile: bool = False, channels_last: bool = True
) -> tuple[Updater, Schedule]:
    """What ``fit`` takes its steps with, and what it changes the rates with."""
    if channels_last:
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector.to(fabric.device)
    options = AdamW(lr=LR, weight_decay=0.01)
    optimizer = create_optimizer(options, parameter_groups(detector, options, LR), fused=True)
    schedule = create_schedule(Cosine(), optimizer, updates=UPDATES, mode="max")
    model, wrapped = fabric.setup(detector, optimizer)
    loss = Loss(torch.tensor(1.0, device=fabric.device))
    clock = Clock(fabric.device, profile)
    detector.train()
    return Updater(fabric, model, wrapped, loss, TrainerOptions().clip_norm, clock), schedule


def ours(
    detector: Detector,
    batch: Batch,
    fabric: Fabric,
    *,
    steps: int = STEPS,
    profile: bool = False,
    channels_last: bool = True,
) -> Callable[[], None]:
    """The step as ``fit`` takes it: Fabric, seeding, clipping, schedule and sums included."""
    updater, schedule = updater_for(detector, fabric, profile=profile, channels_last=channels_last)

    def run() -> None:
        sums = EpochSums()
        for step in range(steps):
            updater.step([batch], len(batch.labels), step, sums)
            schedule.after_update()
        updater.clock.read()

    return run


def bare(detector: Detector, batch: Batch, fabric: Fabric, *, steps: int = STEPS) -> Callable[[], None]:
    """The same by hand: the modules called directly, nothing in between.

    Args:
        detector: Trained in place.
        batch: On the device already, or on a CPU that is the device.
        fabric: Says only on what device and in what precision.
        steps: In one call.
    """
    device = fabric.device
    detector.to(device)
    backbone, head = detector.backbone.model, detector.head
    backbone.to(memory_format=torch.channels_last)
    mean, std = (
        torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (detector.backbone.mean, detector.backbone.std)
    )
    optimizer = torch.optim.AdamW(_groups(backbone) + _groups(head), lr=LR, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.5 * (1 + math.cos(math.pi * i / UPDATES)))
    clips, frames = batch.mask.shape
    short = "bf16" in fabric.strategy.precision.precision
    detector.train()

    def run() -> None:
        for _ in range(steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=short):
                images = (batch.clips.flatten(0, 1).float() / 255 - mean) / std
                vectors = backbone.forward_head(backbone.forward_features(images), pre_logits=True)
                logits = head(vectors.view(clips, frames, -1), batch.mask).logits
                loss = F.binary_cross_entropy_with_logits(logits.float(), batch.labels)
            loss.backward()
            nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()

    return run


def _groups(module: nn.Module) -> list[dict[str, object]]:
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def main() -> None:
    """Measure, print, keep."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    detector = create_detector(BackboneOptions(name="tiny", pretrained=False), Lstm(hidden=64), SIZE)
    batch = make_batch()
    fabric = create_fabric(TrainerOptions(accelerator="cpu", precision="32"))
    ways = {
        "ours": ours(copy.deepcopy(detector), batch, fabric),
        "bare": bare(copy.deepcopy(detector), batch, fabric),
    }
    for warm_up in ways.values():
        warm_up()
    seconds = in_turns(ways, ROUNDS)
    per_step = {f"{name}_ms": 1000 * value / STEPS for name, value in seconds.items()}
    rows = [
        row("our training step / bare PyTorch, tiny + LSTM", seconds["ours"] / seconds["bare"], "<= 1.10", **per_step),
    ]
    method = (
        f"batch {BATCH} x {FRAMES} frames of {SIZE} pixels, one thread, CPU seconds, "
        f"median of {ROUNDS} interleaved rounds of {STEPS} steps"
    )
    report("step", method, rows, machine("torch", "timm", "lightning-fabric"))


if __name__ == "__main__":
    main()
