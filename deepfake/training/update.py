"""One optimizer update from a few batches. Knows no epochs, no files.

Nothing here waits for the device: losses and logits stay on it until the epoch ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from deepfake.data.augment import apply_draws
from deepfake.data.batch import Batch


@dataclass(frozen=True)
class Loss:
    """Binary cross-entropy on clip logits.

    Attributes:
        pos_weight: What a fake clip counts against a real one; a scalar tensor on the device.
        smoothing: Labels are drawn this far towards one half.
    """

    pos_weight: Tensor
    smoothing: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits [B] and labels [B] in 0..1 to losses [B]."""
        targets = labels * (1 - self.smoothing) + 0.5 * self.smoothing
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=self.pos_weight, reduction="none")


@dataclass
class EpochSums:
    """What an epoch's clips came to so far, on this process."""

    losses: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)

    def add(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One batch's, without reading them."""
        self.losses.append(losses.detach())
        self.logits.append(logits.detach())
        self.labels.append(labels)

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, logits and labels [n] on the CPU; this waits for the device."""
        if not self.losses:
            return torch.empty(0), torch.empty(0), torch.empty(0)
        parts = [torch.cat(part).float().cpu() for part in (self.losses, self.logits, self.labels)]
        return parts[0], parts[1], parts[2]


@dataclass
class Updater:
    """Adds up gradients over batches and steps.

    Attributes:
        fabric: Device, precision and processes.
        model: The detector as ``fabric.setup`` returned it.
        optimizer: Likewise.
        loss: Per-clip losses.
        clip_norm: Largest gradient norm; None leaves gradients alone.
    """

    fabric: Fabric
    model: Any
    optimizer: Optimizer
    loss: Loss
    clip_norm: float | None

    def step(self, batches: Sequence[Batch], clips: int, seed: int, sums: EpochSums) -> None:
        """One update by the mean loss over all clips of all batches and processes.

        Args:
            batches: This process's share of each, on the host.
            clips: How many clips there are in them over all processes.
            seed: Fixes dropout, so that any step can be entered without replaying those before it.
            sums: What the clips came to is added here.
        """
        torch.manual_seed(seed)
        results = []
        for i, batch in enumerate(batches):
            # Gradients travel between processes once per update, not once per batch.
            with self.fabric.no_backward_sync(self.model, enabled=i + 1 < len(batches)):
                results.append(self._backward(batch.to(self.fabric.device, non_blocking=True), clips))
        if self.clip_norm is not None:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.clip_norm, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for losses, logits, labels in results:
            sums.add(losses, logits, labels)

    def _backward(self, batch: Batch, clips: int) -> tuple[Tensor, Tensor, Tensor]:
        images = batch.clips
        if batch.draws is not None:
            images = apply_draws(images.float().div_(255), batch.draws)
        logits = self.model(images, batch.mask).logits
        losses = self.loss(logits, batch.labels)
        # Processes' gradients are averaged, so each multiplies its share of the mean back up.
        self.fabric.backward(losses.sum() * (self.fabric.world_size / clips))
        return losses, logits, batch.labels
