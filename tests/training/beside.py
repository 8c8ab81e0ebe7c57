"""Fits on features made in memory, alone or beside one another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from deepfake.models.backbone import Backbone
from deepfake.models.detector import Detector
from deepfake.models.heads import create_head
from deepfake.models.options import HeadOptions, Mean
from deepfake.runs.together import company, run_together
from deepfake.training.features.extract import FeatureReader, FeatureSet
from deepfake.training.features.feature_store import FeatureLayout
from deepfake.training.options import AdamW, Constant, OptimizerOptions, SchedulerOptions, TrainerOptions
from deepfake.training.trainer import FitOptions, Trainer
from tests.training.fakes import FakeClips, Pooled, cpu

FEATURES, FRAMES = 6, 3


@functools.cache
def stored(reads: str, samples: int, seed: int) -> tuple[FakeClips, torch.Tensor, FeatureLayout]:
    """Clips of three frames and features of them, which tell fakes by a little."""
    clips = FakeClips(samples, frames=FRAMES, seed=seed, size=16)
    layout = FeatureLayout.of([clips], {name: name for name in clips.table["sample_id"]}, drawn=True)
    torch.manual_seed(seed)
    frames = torch.randn(layout.frames, FEATURES, *((3, 3) if reads == "maps" else ()))
    for (sample, clip), start in layout.starts.items():
        row = clips.table.index[clips.table["sample_id"] == sample][0]
        length = int(clips.lengths[(clips.items == (row, clip)).all(1)][0])
        frames[start : start + length, 0] += float(clips.table["label"][row])
    return clips, frames, layout


@dataclass
class Fit:
    """One fit: what it is made of, and what came of each of its epochs.

    Attributes:
        losses: Of each epoch's clips, step by step.
        history: Each epoch's metrics.
        error: What it ended in, if not in a result.
    """

    folder: Path
    head: HeadOptions = field(default_factory=lambda: Mean(dropout=0.2))
    seed: int = 0
    optimizer: OptimizerOptions = field(default_factory=lambda: AdamW(lr=0.02))
    scheduler: SchedulerOptions = field(default_factory=Constant)
    keys: dict[str, Any] = field(default_factory=dict)
    spoil: Callable[[Trainer, int], None] = lambda trainer, epoch: None
    resume: bool = False
    alone: bool = False
    losses: list[torch.Tensor] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    error: BaseException | None = None

    def run(self) -> None:
        """Train, beside the others of the company if there is one."""
        torch.manual_seed(self.seed)
        head = create_head(self.head, FEATURES)
        frozen = Detector(Backbone(Pooled()), head, self.head.reads, freeze=True)
        detector = FeatureReader(frozen, torch.float32)
        train, val = (FeatureSet(*stored(self.head.reads, n, seed), self.seed) for n, seed in ((12, 1), (8, 2)))
        keys = {"epochs": 3, "batch_size": 8, "accelerator": "cpu", "num_workers": 0, **self.keys}
        options = FitOptions(TrainerOptions(**keys), self.optimizer, self.scheduler, seed=self.seed)
        trainer = Trainer(detector, train, val, options, cpu(), self.folder, company=company())

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            self.losses.append(trainer.sums.joined()[0])
            self.history.append(metrics)
            self.spoil(trainer, epoch)

        try:
            trainer.fit(on_epoch, resume=self.resume)
        except Exception as error:
            self.error = error

    def stopped(self) -> None:
        """Nobody stops it from outside."""

    def begin_turn(self, among: int = 1) -> None:
        """Nobody asks whose turn it is."""

    def end_turn(self) -> None:
        """Likewise."""


def beside(fits: Sequence[Fit], most: int = 16) -> None:
    """Run fits in one process at the same time."""
    waiting: Iterator[Fit] = iter(fits)
    run_together(lambda: next(waiting, None), most)


def alone(fits: Sequence[Fit]) -> None:
    """Run them one after another."""
    for fit in fits:
        fit.run()


def assert_same(one: Fit, other: Fit) -> None:
    """Hold each step's losses of two fits to each other, and what was chosen of them."""
    assert len(one.losses) == len(other.losses)
    for mine, theirs in zip(one.losses, other.losses, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5, equal_nan=True)
    for mine_, theirs_ in zip(one.history, other.history, strict=True):
        assert set(mine_) == set(theirs_)
        for name in ("train/loss", "val/loss", "lr"):
            assert abs(mine_[name] - theirs_[name]) < 1e-5, name
    assert type(one.error) is type(other.error)
