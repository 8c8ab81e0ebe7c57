"""Everything a fit changes as it goes, as one thing that can be saved between any two steps. Knows no data.

Random states are not in it: each step is seeded by where it stands, so the position is the random state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.optim import Optimizer

from deepfake.models.detector import Detector
from deepfake.training.checkpoint import load_state, save_state
from deepfake.training.gather import gather
from deepfake.training.monitor import Monitor
from deepfake.training.optimizers import Schedule
from deepfake.training.update import EpochSums


@dataclass
class FitState:
    """What changes during a fit.

    Attributes:
        detector: The trained module itself, unwrapped.
        average: timm's ModelEmaV3 of it, or None.
        optimizer: Unwrapped.
        schedule: Of its rates.
        monitor: Which epoch is best so far.
        identity: What must be equal for a resumed fit to be the same one.
        epoch: The one in work, from 0.
        batch: Batches of it that are done.
        updates: Optimizer steps over all epochs.
        sums: What its clips came to so far.
        history: Each finished epoch's metrics.
        seconds: Spent before this process took over.
    """

    detector: Detector
    average: Any
    optimizer: Optimizer
    schedule: Schedule
    monitor: Monitor
    identity: dict[str, Any]
    epoch: int = 0
    batch: int = 0
    updates: int = 0
    sums: EpochSums = field(default_factory=EpochSums)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def best(self) -> Detector:
        """The weights that are evaluated and kept: the averaged ones where there is an average."""
        averaged: Detector = self.detector if self.average is None else self.average.module
        return averaged

    def save(self, path: Path, fabric: Fabric, seconds: float) -> None:
        """Write everything; all processes must call it, the first one writes.

        Args:
            path: Replaced atomically.
            fabric: Its processes and loss scaler.
            seconds: Spent on this fit so far.
        """
        sums = gather(self.sums.joined(), fabric)
        if fabric.is_global_zero:
            state = {
                "identity": self.identity,
                "detector": _changing(self.detector),
                "average": None if self.average is None else _changing(self.average.module),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": fabric.strategy.precision.state_dict(),
                "monitor": self.monitor.state_dict(),
                "position": {"epoch": self.epoch, "batch": self.batch, "updates": self.updates},
                "sums": sums,
                "history": self.history,
                "seconds": seconds,
            }
            save_state(state, path)
        fabric.barrier()

    def load(self, path: Path, fabric: Fabric) -> str:
        """Go on from what :meth:`save` wrote.

        Returns:
            A note on what differs from the fit that wrote it, empty if nothing does.
        """
        state = load_state(path)
        whole = not self.detector.freeze
        self.detector.load_state_dict(state["detector"], strict=whole)
        if self.average is not None and state["average"] is not None:
            self.average.module.load_state_dict(state["average"], strict=whole)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        fabric.strategy.precision.load_state_dict(state["scaler"])
        self.monitor.load_state_dict(state["monitor"])
        self.epoch, self.batch = state["position"]["epoch"], state["position"]["batch"]
        self.updates = state["position"]["updates"]
        self.history, self.seconds = state["history"], state["seconds"]
        self.sums = _my_sums(state["sums"], fabric)
        changed = sorted(key for key in self.identity if state["identity"].get(key) != self.identity[key])
        if not changed:
            return ""
        listed = ", ".join(f"{key} {state['identity'].get(key)} -> {self.identity[key]}" for key in changed)
        return f"resumed with changes ({listed}): the result is not that of an uninterrupted run"


def _changing(detector: Detector) -> dict[str, torch.Tensor]:
    """What training changes of a detector: without a frozen backbone, which is most of it and saved at every epoch."""
    state = detector.state_dict()
    return {name: tensor for name, tensor in state.items() if not (detector.freeze and name.startswith("backbone."))}


def _my_sums(saved: list[tuple[torch.Tensor, ...]], fabric: Fabric) -> EpochSums:
    """This process's part; with another number of processes than before, the first takes all."""
    sums = EpochSums()
    if len(saved) == fabric.world_size:
        mine = saved[fabric.global_rank]
    elif fabric.is_global_zero:
        mine = tuple(torch.cat(parts) for parts in zip(*saved, strict=True))
    else:
        return sums
    losses, logits, labels = (part.to(fabric.device) for part in mine)
    sums.add(losses, logits, labels)
    return sums
