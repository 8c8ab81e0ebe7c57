"""Many trials' epochs on stored features at once: steps are computed together, and each has its own numbers.

What a trial is between two of its epochs (weights, optimizer, schedule, average, what is saved) is as if it had trained
alone; only the steps within are shared. Knows neither how trials are begun nor when they end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from deepfake.data.clips import ClipSource
from deepfake.models.detector import Detector
from deepfake.models.heads import Head, Output
from deepfake.models.heads.base import masked_mean
from deepfake.models.heads.convlstm import ConvLstmHead
from deepfake.models.heads.mean import MeanHead
from deepfake.models.heads.recurrent import GruHead, LstmHead
from deepfake.models.heads.vit import VitHead
from deepfake.training.autotune import is_out_of_memory
from deepfake.training.features.extract import FeatureReader, FeatureSet, take_frames
from deepfake.training.features.row_updates import in_groups, row_updates
from deepfake.training.features.stacked import Stack, shape_of
from deepfake.training.optimizers import Schedule
from deepfake.training.runtime import Interruption
from deepfake.training.train_step import EpochSums, Loss, no_frames

Shape = tuple[Any, ...]


@dataclass
class Stretch:
    """What is left of a trial's epoch, and all that its steps change.

    Attributes:
        detector: A :class:`FeatureReader`.
        optimizer: Of its head's parameters.
        schedule: Of its rates.
        loss: Per-clip losses.
        source: What it trains on.
        epoch: From 0.
        batches: The items of each.
        fabric: Device and precision.
        shape: From :func:`shape_to_fuse`.
        accumulate: Batches to an update.
        clip_norm: Largest gradient norm; None leaves gradients alone.
        sam: How far weights climb before the gradient is taken; None steps from where they are.
        seed: Of the update that begins with the batch of this number, of ``batches``.
        sums: What the clips came to is added here.
        updated: Called after each update with the detector's weights as they are then; None leaves them to the end.
        done: Batches that are done.
    """

    detector: Detector
    optimizer: Optimizer
    schedule: Schedule
    loss: Loss
    source: ClipSource
    epoch: int
    batches: Sequence[Sequence[int]]
    fabric: Fabric
    shape: Shape
    accumulate: int
    clip_norm: float | None
    sam: float | None
    seed: Callable[[int], int]
    sums: EpochSums
    updated: Callable[[], None] | None = None
    done: int = 0

    @property
    def key(self) -> Shape:
        """What stretches must have alike to be trained together now."""
        # An update that is cut in two would be another one.
        return (*self.shape, len(self.batches) - self.done if self.accumulate > 1 else None)


class Company(Protocol):
    """The trials that one process trains at the same time."""

    def train(self, stretch: Stretch) -> None:
        """Train for as many batches as suits all who are trained together, at least one."""

    def alone(self, why: str) -> None:
        """Hear that a trial is not trained together with others."""

    def interruption(self) -> AbstractContextManager[Interruption]:
        """Entered while a trial is trained: who asks it to stop."""


def shape_to_fuse(
    detector: Detector, optimizer: Optimizer, source: ClipSource, batch: int, fabric: Fabric, *keys: object
) -> Shape | str:
    """What trials must have alike to be trained together, or why this one is better trained alone.

    Args:
        detector: Its head is what is trained.
        optimizer: Of it.
        source: What it trains on.
        batch: Clips at once.
        fabric: Device and precision.
        *keys: What else must be the same.
    """
    if not isinstance(detector, FeatureReader):
        return "it reads clips, not stored features (features=cached)"
    if fabric.world_size > 1:
        return "several processes train it"
    if fabric.device.type not in ("cpu", "cuda"):
        return f"on {fabric.device.type} nothing is known of what it draws at random"
    if getattr(fabric.strategy.precision, "scaler", None) is not None:
        return "trainer.precision=fp16 scales its losses"
    parameters = in_groups(optimizer)
    names = {id(one): name for name, one in detector.head.named_parameters()}
    if {id(one) for one in parameters} != set(names):
        return "a part of its head is not trained"
    head = shape_of(detector.head)
    if isinstance(head, str):
        return head
    features = tuple(source.fetch([0], 0).clips.shape[1:])
    if why := why_it_does_not_pay(detector.head, batch * math.prod(features), fabric.device):
        return why
    order = tuple(names[id(one)] for one in parameters)
    precision = str(fabric.strategy.precision.precision)
    return (*head, type(optimizer), order, features, batch, str(fabric.device), precision, *keys)


class Limit(NamedTuple):
    """Up to where a kind of head is trained faster beside others.

    Attributes:
        widest: What its width may be.
        features: How many numbers a batch of its features may have.
        width: Reads the width of one.
    """

    widest: int
    features: int
    width: Callable[[Any], int]


def _hidden(head: Any) -> int:
    return int(head.forwards[0].hidden_size)


#: On a CPU, measured by ``python -m benchmarks.fuse`` (see docs/sweeps.md): beyond it a step's arithmetic is all there
#: is, and what is stacked leaves the processor's cache.
ON_CPU: dict[type[Head], Limit] = {
    MeanHead: Limit(0, 3 << 18, lambda head: 0),
    LstmHead: Limit(128, 1 << 17, _hidden),
    GruHead: Limit(128, 1 << 17, _hidden),
    VitHead: Limit(64, 1 << 17, lambda head: int(head.rows.shape[1])),
    ConvLstmHead: Limit(0, 0, lambda head: int(head.layers[0].hidden)),
}


def why_it_does_not_pay(head: Head, features: int, device: torch.device) -> str:
    """Why a head that reads batches of so many numbers is trained no faster beside others; empty where it is."""
    if device.type != "cpu" or type(head) not in ON_CPU:
        return ""
    kind, limit = type(head).__name__, ON_CPU[type(head)]
    if not limit.features:
        return f"on a CPU a {kind} gains nothing by it"
    if limit.width(head) > limit.widest:
        return f"on a CPU a {kind} wider than {limit.widest} gains nothing by it"
    if features > limit.features:
        return f"on a CPU a {kind} gains nothing by it in batches of more than {limit.features} features"
    return ""


def train_together(stretches: Sequence[Stretch], stop: Callable[[], bool] = lambda: False) -> None:
    """Train trials of one shape for as many batches as each of them has left, and say in each how many that were.

    Args:
        stretches: Whose :attr:`Stretch.key` is the same.
        stop: Asked after each update whether to leave it at that.

    Raises:
        RuntimeError: The device has no room for one of them.
    """
    try:
        _train(stretches, stop)
        return
    except RuntimeError as error:
        if not is_out_of_memory(error) or len(stretches) == 1:
            raise
    # Here, where no exception holds on to what did not fit.
    if stretches[0].fabric.device.type == "cuda":
        torch.cuda.empty_cache()
    for half in (stretches[::2], stretches[1::2]):
        train_together(half, stop)


def _train(stretches: Sequence[Stretch], stop: Callable[[], bool]) -> None:
    first = stretches[0]
    names = {id(one): name for name, one in first.detector.head.named_parameters()}
    order = [names[id(one)] for one in in_groups(first.optimizer)]
    stack = Stack([one.detector.head for one in stretches], order)
    updates = row_updates(stack, [one.optimizer for one in stretches], [one.schedule for one in stretches])
    step = _Step(stretches, stack)
    count = min(len(one.batches) - one.done for one in stretches)
    results: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    try:
        for parts in _grouped(_read(stretches, count), first.accumulate):
            results += step.gradients(parts, done)
            updates.step()
            done += len(parts)
            for k, one in enumerate(stretches):
                if one.updated is not None:
                    stack.write(k)
                    one.updated()
            if stop():
                break
    finally:
        updates.keep()
        for k, one in enumerate(stretches):
            stack.write(k)
            one.done += done
            for losses, logits, labels in results[:done]:
                one.sums.add(losses[k], logits[k], labels[k])


def _grouped(batches: Iterator[tuple[Tensor, ...]], count: int) -> Iterator[list[tuple[Tensor, ...]]]:
    """So many batches at a time, at the end those that are left."""
    held: list[tuple[Tensor, ...]] = []
    for batch in batches:
        held.append(batch)
        if len(held) == count:
            yield held
            held = []
    if held:
        yield held


def _read(stretches: Sequence[Stretch], count: int) -> Iterator[tuple[Tensor, ...]]:
    """Features [K, B, T, ...], mask [K, B, T] and labels [K, B] of each trial's next batches."""
    first = stretches[0].source
    items = [np.array(one.batches[one.done : one.done + count], np.int64) for one in stretches]  # [batches, B] each
    if isinstance(first, FeatureSet) and all(
        isinstance(one.source, FeatureSet) and one.source.frames is first.frames for one in stretches
    ):
        found = [
            one.source.places(chosen, one.epoch)
            for one, chosen in zip(stretches, items, strict=True)
            if isinstance(one.source, FeatureSet)
        ]
        places, masks, labels = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))
        for place, mask, label in zip(places, masks, labels, strict=True):
            yield take_frames(first.frames, place), mask, label
        return
    device = stretches[0].fabric.device
    for i in range(count):
        batches = [
            one.source.fetch(chosen[i].tolist(), one.epoch).to(device)
            for one, chosen in zip(stretches, items, strict=True)
        ]
        yield (
            torch.stack([batch.clips for batch in batches]),
            torch.stack([batch.mask for batch in batches]),
            torch.stack([batch.labels for batch in batches]),
        )


class _Step:
    """Gradients of all trials at once."""

    def __init__(self, stretches: Sequence[Stretch], stack: Stack) -> None:
        self._stretches, self._stack = stretches, stack
        self._fabric, self._detector = stretches[0].fabric, stretches[0].detector

        def column(values: Sequence[float]) -> Tensor:
            return stack.rows.new_tensor(values)[:, None]

        losses = [one.loss for one in stretches]
        self._weights = torch.stack([loss.pos_weight for loss in losses])[:, None].to(stack.rows.dtype)
        self._smoothing = column([loss.smoothing for loss in losses])
        self._frames = column([loss.frames for loss in losses]) if any(loss.frames for loss in losses) else None
        # A limit of 0 for one that has none.
        limits = [one.clip_norm or 0.0 for one in stretches]
        self._limits = column(limits) if any(limits) else None
        self._climbs = None if stretches[0].sam is None else column([one.sam or 0.0 for one in stretches])

    def gradients(self, parts: Sequence[tuple[Tensor, ...]], batch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Those of an update, scaled down where a limit says so; losses, logits and labels [K, B] of each batch.

        Args:
            parts: Features, mask and labels of each of its batches.
            batch: The number of the first of them.
        """
        stack = self._stack
        seeds = [one.seed(one.done + batch) for one in self._stretches] if stack.draws.any else []
        results = self._add_gradients(parts, seeds)
        if self._climbs is not None:
            before = stack.rows.clone()
            lengths = stack.gradients.norm(dim=1, keepdim=True)
            stack.rows += stack.gradients * (self._climbs / (lengths + 1e-12))
            self._add_gradients(parts, seeds)
            stack.rows.copy_(before)
        if self._limits is not None:
            scale = (self._limits / (stack.gradients.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
            stack.gradients *= torch.where(self._limits > 0, scale, torch.ones_like(scale))
        return results

    def _add_gradients(
        self, parts: Sequence[tuple[Tensor, ...]], seeds: Sequence[int]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        self._stack.draws.begin(seeds)
        clips = sum(labels.shape[1] for _, _, labels in parts)
        results = []
        for number, (features, mask, labels) in enumerate(parts):
            with self._fabric.autocast():
                output = self._stack(self._detector.extract(features), mask)
            losses = self._losses(output.logits.float(), labels, self._weights, self._smoothing)
            trained = losses if self._frames is None else losses + self._frames * self._of_frames(output, labels, mask)
            self._stack.backward(trained.sum() / clips, add=number > 0)
            results.append((losses.detach(), output.logits.detach(), labels))
        return results

    def _losses(self, logits: Tensor, labels: Tensor, weights: Tensor, smoothing: Tensor) -> Tensor:
        """Logits and labels [K, ...] to losses, as :class:`Loss` computes them, each trial's at its own settings."""
        targets = labels * (1 - smoothing) + 0.5 * smoothing
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none")

    def _of_frames(self, output: Output, labels: Tensor, mask: Tensor) -> Tensor:
        """The mean loss [K, B] of each clip's frames."""
        if output.frame_logits is None:
            raise no_frames(max(one.loss.frames for one in self._stretches))
        each = labels[..., None].expand_as(mask)
        losses = self._losses(output.frame_logits.float(), each, self._weights[..., None], self._smoothing[..., None])
        return masked_mean(losses.flatten(0, 1), mask.flatten(0, 1)).view(labels.shape)
