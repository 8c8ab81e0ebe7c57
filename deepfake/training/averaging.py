"""Averages of the weights that a fit goes through, which are evaluated and kept in the place of the last ones.

Knows no files; told of each update and epoch by the trainer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import nn

from deepfake.compat import prepare_torchvision
from deepfake.data.clips import Batch
from deepfake.errors import UserError
from deepfake.models.detector import Detector
from deepfake.training.options import TrainerOptions
from deepfake.training.train_step import Transfer, changed


class Average(Protocol):
    """A detector beside the trained one, with an average of its weights."""

    @property
    def module(self) -> Detector | None:
        """The average; None where there is none yet. What training leaves as it is may be the trained one's own."""

    def after_update(self, detector: Detector, update: int) -> None:
        """To be called after each optimizer step, with their number."""

    def after_epoch(self, detector: Detector, epoch: int, clips: Callable[[], Iterable[Batch]]) -> bool:
        """To be called after each epoch's steps; True where the average begins.

        Args:
            detector: What is trained.
            epoch: From 0.
            clips: Gives the epoch's training clips again, this process's part of them.
        """

    def load_state_dict(self, state: dict[str, torch.Tensor], epochs: int, strict: bool) -> None:
        """Go on with an average of another process, which had finished so many epochs."""


class MovingAverage:
    """An exponential moving average, updated with each step.

    Args:
        detector: What is trained.
        decay: How much of the average stays at a step.
    """

    def __init__(self, detector: Detector, decay: float) -> None:
        prepare_torchvision()
        from timm.utils import ModelEmaV3

        # The warm-up lets the average forget the random weights it began with, however short the run.
        self._average: Any = ModelEmaV3(detector, decay=decay, use_warmup=True)

    @property
    def module(self) -> Detector:
        """The average, from the first step on."""
        averaged: Detector = self._average.module
        return averaged

    def after_update(self, detector: Detector, update: int) -> None:
        """Take in what a step changed."""
        self._average.update(detector, step=update)

    def after_epoch(self, detector: Detector, epoch: int, clips: Callable[[], Iterable[Batch]]) -> bool:
        """Nothing: batch statistics are averaged with each step too."""
        return False

    def load_state_dict(self, state: dict[str, torch.Tensor], epochs: int, strict: bool) -> None:
        """Go on with another one's."""
        self.module.load_state_dict(state, strict=strict)


class LastEpochs:
    """The mean of the weights at the ends of the last epochs: stochastic weight averaging (Izmailov et al. 2018,
    arXiv:1803.05407).

    Batch statistics do not average: those of the mean are taken anew over the training clips, in one pass.

    Args:
        detector: What is trained.
        first: The first epoch that counts, from 0.
        fabric: Where it works.
    """

    def __init__(self, detector: Detector, first: int, fabric: Fabric) -> None:
        self._mean = apart(detector)
        self._first = first
        self._fabric = fabric
        self._taken = 0

    @property
    def module(self) -> Detector | None:
        """The mean of the epochs that count, so far."""
        return self._mean if self._taken else None

    def after_update(self, detector: Detector, update: int) -> None:
        """Nothing: epochs count."""

    def after_epoch(self, detector: Detector, epoch: int, clips: Callable[[], Iterable[Batch]]) -> bool:
        """Take in an epoch's weights where it counts."""
        if epoch < self._first:
            return False
        with torch.no_grad():
            for held, now in zip(self._mean.parameters(), detector.parameters(), strict=True):
                held.lerp_(now, 1 / (self._taken + 1))
            for buffer, latest in zip(self._mean.buffers(), detector.buffers(), strict=True):
                buffer.copy_(latest)
        self._taken += 1
        take_statistics(self._mean, clips, self._fabric)
        return self._taken == 1

    def load_state_dict(self, state: dict[str, torch.Tensor], epochs: int, strict: bool) -> None:
        """Go on with another one's."""
        self._mean.load_state_dict(state, strict=strict)
        self._taken = max(0, epochs - self._first)


def create_average(detector: Detector, keys: TrainerOptions, fabric: Fabric) -> Average | None:
    """The average that ``trainer.ema`` or ``trainer.swa`` asks for; None where neither does.

    Raises:
        UserError: Both do, or the fit may end before any epoch counts.
    """
    if keys.swa is None:
        return None if keys.ema is None else MovingAverage(detector, keys.ema)
    for name in ("ema", "patience"):
        if (value := getattr(keys, name)) is not None:
            why = {"ema": "both average weights", "patience": "the fit may end before the epochs that are averaged"}
            raise UserError(
                f"trainer.swa={keys.swa} with trainer.{name}={value}: {why[name]}", f"set trainer.{name}=null"
            )
    return LastEpochs(detector, keys.epochs - max(1, round(keys.swa * keys.epochs)), fabric)


def apart(detector: Detector) -> Detector:
    """A copy with weights of its own; what is not trained is shared."""
    shared: dict[int, Any] = {id(held): held for held in detector.parameters() if not held.requires_grad}
    if detector.freeze:
        shared = {id(detector.backbone): detector.backbone}
    return copy.deepcopy(detector, shared)


def take_statistics(detector: Detector, clips: Callable[[], Iterable[Batch]], fabric: Fabric) -> None:
    """Take the statistics of batch normalisation anew over training clips, each batch counting the same.

    Those that stay as they came (see :func:`deepfake.models.tuning.hold_statistics`) do so here.

    Args:
        detector: In evaluation mode afterwards; nothing but these statistics changes.
        clips: Gives this process's part; not called where there are no statistics to be taken.
        fabric: Device and precision.
    """
    detector.train()
    norms = [
        module
        for module in detector.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
    ]
    # Without dropout, which would be drawn from a state that no position in the fit fixes.
    detector.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # all batches count the same
    move = Transfer(fabric.device)
    with torch.no_grad(), fabric.autocast():
        for batch in clips():
            moved = move(batch)
            images, _ = changed(moved, detector.size)
            detector(images, moved.mask)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    detector.eval()
