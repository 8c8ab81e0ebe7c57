"""One optimizer update from a few batches, and batches to the device beside its work. Knows no epochs, no files.

Nothing here waits for the device: losses and logits stay on it until the epoch ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from deepfake.data.augment import apply_draws, mix_pairs
from deepfake.data.clips import Batch
from deepfake.errors import UserError
from deepfake.models.detector import resized
from deepfake.models.heads import Output
from deepfake.models.heads.base import masked_mean
from deepfake.training.autotune import is_out_of_memory, split_batch
from deepfake.training.profiling import Clock


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
        for tensor in vars(moved).values():
            if tensor is not None:
                # Its memory belongs to the other queue, which must not reuse it before this one is done with it.
                tensor.record_stream(now)
        return moved


@dataclass(frozen=True)
class Loss:
    """Binary cross-entropy on clip logits.

    Attributes:
        pos_weight: What a fake clip counts against a real one; a scalar tensor on the device.
        smoothing: Labels are drawn this far towards one half.
        frames: What the mean of a clip's frames' own losses counts beside the clip's; 0 leaves them out.
    """

    pos_weight: Tensor
    smoothing: float = 0.0
    frames: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits and labels in 0..1 to losses, all of one shape."""
        targets = labels * (1 - self.smoothing) + 0.5 * self.smoothing
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=self.pos_weight, reduction="none")

    def trained(self, losses: Tensor, output: Output, labels: Tensor, mask: Tensor) -> Tensor:
        """Clips' losses [B] with those of their frames, each of which has its clip's label (deep supervision, Lee et
        al. 2015, arXiv:1409.5185).

        Args:
            losses: [B], of the clips alone.
            output: What the detector says.
            labels: [B] in 0..1.
            mask: bool [B, T]; only frames it marks count.

        Raises:
            UserError: Frames count, and the head says nothing of them.
        """
        if not self.frames:
            return losses
        if output.frame_logits is None:
            raise no_frames(self.frames)
        return losses + self.frames * masked_mean(self(output.frame_logits, labels[:, None].expand_as(mask)), mask)


def no_frames(frame_loss: float) -> UserError:
    """The error for a loss of frames where there are no logits of frames."""
    return UserError(
        f"trainer.frame_loss={frame_loss} with a head that sees whole clips and gives no logits of frames",
        "set trainer.frame_loss=0, or choose head=mean, lstm, gru, vit or convlstm",
    )


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
        clock: Told what takes how long.
        sam: How far weights climb before the gradient is taken that they step by; None steps from where they are.
        may_split: Out of memory splits batches from then on instead of ending the fit.
        parts: Into how many each batch is split.
        notes: What had to be done differently.
    """

    fabric: Fabric
    model: Any
    optimizer: Optimizer
    loss: Loss
    clip_norm: float | None
    clock: Clock
    sam: float | None = None
    may_split: bool = False
    parts: int = 1
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._move = Transfer(self.fabric.device)

    def step(self, batches: Sequence[Batch], clips: int, seed: int, sums: EpochSums) -> None:
        """One update by the mean loss over all clips of all batches and processes.

        Args:
            batches: This process's share of each, on the host.
            clips: How many clips there are in them over all processes.
            seed: Fixes dropout, so that any step can be entered without replaying those before it.
            sums: What the clips came to is added here.
        """
        results = self._gradients(batches, clips, seed)
        if self.sam is not None:
            with climbed(self.model, self.sam):
                self._gradients(batches, clips, seed)
        with self.clock("optimizer"):
            if self.clip_norm is not None:
                self.fabric.clip_gradients(
                    self.model, self.optimizer, max_norm=self.clip_norm, error_if_nonfinite=False
                )
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        for losses, logits, labels in results:
            sums.add(losses, logits, labels)

    def _gradients(self, batches: Sequence[Batch], clips: int, seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The gradients of an update, in smaller parts where the device has no room."""
        while True:
            torch.manual_seed(seed)
            try:
                return self._add_gradients([piece for batch in batches for piece in self._pieces(batch)], clips)
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._split_more(batches):
                    raise

    def _pieces(self, batch: Batch) -> list[Batch]:
        return [batch] if self.parts == 1 else split_batch(batch, self.parts)

    def _add_gradients(self, batches: Sequence[Batch], clips: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        results = []
        for i, batch in enumerate(batches):
            # Gradients travel between processes once per update, not once per batch.
            with self.fabric.no_backward_sync(self.model, enabled=i + 1 < len(batches)):
                with self.clock("transfer"):
                    moved = self._move(batch)
                results.append(self._backward(moved, clips))
        return results

    def _backward(self, batch: Batch, clips: int) -> tuple[Tensor, Tensor, Tensor]:
        with self.clock("forward"):
            images, labels = changed(batch, self.model.size)
            output = self.model(images, batch.mask)
            losses = self.loss(output.logits, labels)
            trained = self.loss.trained(losses, output, labels, batch.mask)
        with self.clock("backward"):
            # Processes' gradients are averaged, so each multiplies its share of the mean back up.
            self.fabric.backward(trained.sum() * (self.fabric.world_size / clips))
        return losses, output.logits, batch.labels

    def _split_more(self, batches: Sequence[Batch]) -> bool:
        """Halve what is computed at once; False where that is not allowed or nothing is left to halve."""
        largest = max(len(batch.labels) for batch in batches)
        # Processes that wait for each other's gradients cannot go back a step one by one.
        if not self.may_split or self.fabric.world_size > 1 or self.parts >= largest:
            return False
        self.optimizer.zero_grad(set_to_none=True)
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        self.parts *= 2
        self.notes.append(
            f"out of memory: batches of {largest} clips are computed in {self.parts} parts, at the same effective batch"
        )
        return True


def changed(batch: Batch, side: int | None = None) -> tuple[Tensor, Tensor]:
    """A batch's clips, brought to a side, and labels once what was drawn for the device is done to them."""
    images, labels = batch.clips, batch.labels
    if side is not None:
        frames = resized(images.flatten(0, 1), side)
        images = frames.reshape(*images.shape[:2], *frames.shape[1:])
    if batch.draws is not None:
        images = apply_draws(images.float().div_(255), batch.draws)
    if batch.mix is not None:
        images = images if batch.draws is not None else images.float().div_(255)
        images, labels = mix_pairs(images, labels, batch.mix)
    return images, labels


@contextmanager
def climbed(model: nn.Module, rho: float) -> Iterator[None]:
    """A block in which weights lie where the loss is about the highest within ``rho`` of them: what a sharpness-aware
    step takes its gradient from (Foret et al. 2021, arXiv:2010.01412).

    Gradients are gone at its beginning, and weights as they were at its end. Batch statistics are those of where the
    weights are, so they stay as they are within it.

    Args:
        model: With gradients.
        rho: The length of the way, along the gradient.
    """
    moved = [parameter for parameter in model.parameters() if parameter.grad is not None]
    before = [parameter.detach().clone() for parameter in moved]
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    try:
        with torch.no_grad():
            gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
            length = nn.utils.get_total_norm(gradients)
            for parameter, gradient in zip(moved, gradients, strict=True):
                parameter.add_(gradient * (rho / (length + 1e-12)))
        model.zero_grad(set_to_none=True)
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        with torch.no_grad():
            for parameter, held in zip(moved, before, strict=True):
                parameter.copy_(held)
