"""Trials that train together on stored features against the same trials one by one; prints ratios measured in one run.

    python -m benchmarks.fuse                every row of this machine's device, some minutes
    python -m benchmarks.fuse mean lstm      these kinds of heads alone
    python -m benchmarks.fuse --trials 1000  whole fits of so many heads, on features of FaceForensics++'s size: minutes
                                             on a GPU, hours without one

Steps are those of training (``training.train_step.Updater`` and ``training.features.fused``), on features made at
random: what they are changes no time. Needs no data and no network.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch.optim import Optimizer

from benchmarks.measure import beside, in_turns, machine, report, row
from deepfake.data.clips import ClipSource
from deepfake.models.backbone import Backbone
from deepfake.models.detector import Detector
from deepfake.models.heads import create_head
from deepfake.models.options import ConvLstm, Gru, HeadOptions, Lstm, Mean, Vit
from deepfake.runs.together import company, run_together
from deepfake.training.features.extract import FeatureReader, FeatureSet
from deepfake.training.features.feature_store import FeatureLayout
from deepfake.training.features.fused import Stretch, shape_to_fuse, train_together
from deepfake.training.optimizers import Schedule, create_optimizer, create_schedule, parameter_groups
from deepfake.training.options import AdamW, Cosine, TrainerOptions
from deepfake.training.profiling import Clock
from deepfake.training.runtime import create_fabric
from deepfake.training.train_step import EpochSums, Loss, Updater
from deepfake.training.trainer import FitOptions, Trainer

CLIPS, ROUNDS, UPDATES = 64, 3, 10_000
#: Of FaceForensics++ with all its methods: training and validation videos, and frames of each.
VIDEOS, HELD, FRAMES = 720 * 5, 140 * 5, 32


@dataclass(frozen=True)
class Size:
    """What is trained: so many heads, on features of a width, and of a grid where they read maps."""

    kind: str
    head: HeadOptions
    trials: int
    features: int
    grid: int | None = None
    batch: int = 16
    frames: int = 8
    steps: int = 4
    seeds: bool = False
    reach: str = ">= 0.95"

    @property
    def name(self) -> str:
        """One line of the report."""
        held = ", ".join(f"{key} {value}" for key, value in vars(self.head).items() if key in ("hidden", "width"))
        of = "each its own seed" if self.seeds else "one seed"
        shape = f"{self.batch} x {self.frames} x {self.features}" + (
            f" x {self.grid} x {self.grid}" if self.grid else ""
        )
        return f"{self.trials} {self.kind} heads, {held or 'linear'}, batches {shape}, {of}"


#: On a CPU. The demo's features are 128 wide.
SIZES = (
    Size("mean", Mean(), 32, 128, steps=16, reach=">= 10"),
    Size("mean", Mean(), 32, 128, steps=16, seeds=True),
    Size("mean", Mean(dropout=0.0), 32, 1280, steps=16),
    Size("mean", Mean(), 8, 2048, batch=32, steps=2),
    Size("mean", Mean(), 8, 2048, batch=32, steps=2, seeds=True),
    Size("mean", Mean(), 16, 1280, batch=64, frames=16, steps=2, seeds=True),
    Size("lstm", Lstm(hidden=64), 8, 128, reach=">= 1.5"),
    Size("lstm", Lstm(hidden=64), 8, 1280, batch=32, steps=2),
    Size("lstm", Lstm(hidden=128), 8, 128),
    Size("lstm", Lstm(hidden=256), 8, 128, steps=2),
    Size("gru", Gru(hidden=64), 8, 128),
    Size("gru", Gru(hidden=128), 8, 128),
    Size("gru", Gru(hidden=256), 8, 128, steps=2),
    Size("vit", Vit(width=64, depth=1), 4, 128, 2, steps=2),
    Size("vit", Vit(width=128, depth=1), 4, 128, 2, steps=2),
    Size("convlstm", ConvLstm(hidden=32), 4, 128, 4, steps=2),
    Size("convlstm", ConvLstm(hidden=64), 4, 128, 4, steps=2),
)
#: On a GPU.
SIZES_GPU = (
    Size("gru", Gru(hidden=256), 32, 1280, batch=32, steps=16, seeds=True, reach=">= 10"),
    Size("lstm", Lstm(hidden=256), 32, 1280, batch=32, steps=16, seeds=True),
    Size("mean", Mean(), 32, 1280, batch=32, steps=16, seeds=True),
    Size("vit", Vit(), 16, 1280, 7, batch=32, steps=4, seeds=True),
    Size("convlstm", ConvLstm(), 16, 1280, 7, batch=32, steps=4, seeds=True),
)


class _Nothing(torch.nn.Module):
    """In the place of a backbone, whose features are stored."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


class _Clips(ClipSource):
    """Clips that are never read: half of them fakes."""

    def __init__(self, clips: int, frames: int) -> None:
        labels = np.arange(clips) % 2
        names = [str(i) for i in range(clips)]
        self.table = pd.DataFrame({"sample_id": names, "label": labels, "method": "", "dataset": "", "status": "ok"})
        self.items = np.stack([np.arange(clips), np.zeros(clips, np.int64)], 1)
        self.labels, self.lengths = labels.astype(np.float32), np.full(clips, frames)


def features(clips: _Clips, width: int, grid: int | None, device: torch.device) -> tuple[torch.Tensor, FeatureLayout]:
    """Features of clips, and where they lie."""
    layout = FeatureLayout.of([clips], {name: name for name in clips.table["sample_id"]}, drawn=True)
    return torch.randn(layout.frames, width, *(() if grid is None else (grid, grid)), device=device), layout


def detector(head: HeadOptions, width: int, seed: int, device: torch.device) -> FeatureReader:
    """A head on stored features."""
    torch.manual_seed(seed)
    built = Detector(Backbone(_Nothing(width)), create_head(head, width), head.reads, freeze=True)
    return FeatureReader(built, torch.float32).to(device).train()


class Trials:
    """Some heads with all that trains them, alone or together."""

    def __init__(self, size: Size, fabric: Fabric) -> None:
        self.size, self.fabric = size, fabric
        clips = _Clips(CLIPS, size.frames)
        stored = features(clips, size.features, size.grid, fabric.device)
        self.loss = Loss(torch.tensor(1.0, device=fabric.device))
        self.made: list[tuple[FeatureReader, Optimizer, Schedule, FeatureSet, Updater]] = []
        for trial in range(size.trials):
            reader = detector(size.head, size.features, trial, fabric.device)
            options = AdamW(lr=1e-3 * (1 + trial / size.trials))
            optimizer = create_optimizer(options, parameter_groups(reader, options), fused=True)
            schedule = create_schedule(Cosine(), optimizer, updates=UPDATES, mode="max")
            model, wrapped = fabric.setup(reader, optimizer)
            updater = Updater(fabric, model, wrapped, self.loss, 1.0, Clock(fabric.device, False))
            self.made.append((reader, optimizer, schedule, FeatureSet(clips, *stored, trial), updater))
        generators = [np.random.default_rng(trial * size.seeds) for trial in range(size.trials)]
        self.order = [[g.permutation(CLIPS)[: size.batch].tolist() for _ in range(size.steps)] for g in generators]
        self.seeds = [
            np.random.SeedSequence(trial * size.seeds).generate_state(size.steps, np.uint64).tolist()
            for trial in range(size.trials)
        ]

    def one_by_one(self) -> None:
        """An epoch of each."""
        for order, seeds, (_, _, schedule, source, updater) in zip(self.order, self.seeds, self.made, strict=True):
            sums = EpochSums()
            for items, seed in zip(order, seeds, strict=True):
                updater.step([source.fetch(items)], len(items), seed >> 1, sums)
                schedule.after_update()
            sums.joined()

    def together(self) -> None:
        """The same epochs at once."""
        stretches = [
            Stretch(
                detector=reader,
                optimizer=optimizer,
                schedule=schedule,
                loss=self.loss,
                source=source,
                epoch=0,
                batches=order,
                fabric=self.fabric,
                shape=(),
                accumulate=1,
                clip_norm=1.0,
                sam=None,
                seed=lambda batch, seeds=seeds: seeds[batch] >> 1,  # type: ignore[misc]
                sums=EpochSums(),
            )
            for order, seeds, (reader, optimizer, schedule, source, _) in zip(
                self.order, self.seeds, self.made, strict=True
            )
        ]
        train_together(stretches)
        for stretch in stretches:
            stretch.sums.joined()

    @property
    def why_alone(self) -> str:
        """Why such trials are not trained together; empty where they are."""
        reader, optimizer, _, source, _ = self.made[0]
        shape = shape_to_fuse(reader, optimizer, source, self.size.batch, self.fabric)
        return shape if isinstance(shape, str) else ""


def of_steps(size: Size, fabric: Fabric, clock: Callable[[], float]) -> dict[str, Any]:
    """Steps one by one over steps together; where they are not shared, 1."""
    trials = Trials(size, fabric)
    trials.together()
    seconds = in_turns({"one by one": trials.one_by_one, "together": trials.together}, ROUNDS, clock)
    count = size.trials * size.steps
    ratio = seconds["one by one"] / seconds["together"]
    alone = trials.why_alone
    return row(
        size.name,
        1.0 if alone else ratio,
        size.reach,
        **{f"{name}, ms a step": 1e3 * value / count for name, value in seconds.items()},
        **({"not shared; it would be": ratio} if alone else {}),
    )


@dataclass
class WholeFit:
    """One fit of a GRU head, from its first epoch to its last."""

    seed: int
    fabric: Fabric
    train: FeatureSet
    val: FeatureSet
    width: int
    folder: Path
    alone: bool = False

    def run(self) -> None:
        """Train it."""
        options = AdamW(lr=1e-4 * 10 ** (self.seed % 20 / 10))
        reader = detector(Gru(), self.width, self.seed, self.fabric.device)
        keys = TrainerOptions(epochs=5, batch_size=64, num_workers=0)
        fit = FitOptions(keys, options, Cosine(), seed=self.seed)
        trainer = Trainer(reader, self.train, self.val, fit, self.fabric, self.folder, company=company())
        trainer.fit(lambda epoch, metrics: None)

    def stopped(self) -> None:
        """Nobody stops it."""


def of_fits(count: int, most: int, fabric: Fabric, width: int = 1280) -> dict[str, Any]:
    """Minutes of so many whole fits, so many at a time."""
    train, val = _Clips(VIDEOS, FRAMES // 4), _Clips(HELD, FRAMES // 4)
    stored = [features(clips, width, None, fabric.device) for clips in (train, val)]
    with tempfile.TemporaryDirectory() as folder:

        def fits() -> Iterator[WholeFit]:
            for seed in range(count):
                sets = [FeatureSet(clips, *held, seed) for clips, held in zip((train, val), stored, strict=True)]
                yield WholeFit(seed, fabric, sets[0], sets[1], width, Path(folder) / str(seed))

        waiting = fits()
        began = time.perf_counter()
        run_together(lambda: next(waiting, None), most)
        minutes = (time.perf_counter() - began) / 60
    return row(
        f"{count} fits of 5 epochs, {most} at a time, minutes", minutes, "<= 10", seconds_a_fit=60 * minutes / count
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = sorted({size.kind for size in SIZES})
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(kinds)}")
    parser.add_argument("--trials", type=int, help="whole fits instead of steps")
    parser.add_argument("--most", type=int, default=32, help="so many at a time")
    given = parser.parse_args(arguments)
    if unknown := set(given.kinds) - set(kinds):
        parser.error(f"no such heads: {', '.join(sorted(unknown))}")
    fabric = create_fabric(TrainerOptions(precision="32"))
    gpu = fabric.device.type == "cuda"
    # Others on the machine slow a process down, but not what it computes.
    clock = time.perf_counter if gpu else time.process_time
    rows = []
    if given.trials:
        rows.append(of_fits(given.trials, given.most, fabric))
    else:
        chosen = [size for size in (SIZES_GPU if gpu else SIZES) if not given.kinds or size.kind in given.kinds]
        for size in chosen:
            rows.append(of_steps(size, fabric, clock))
            print(f"{rows[-1]['what']}: {rows[-1]['ratio']}", flush=True)
    where = machine("torch", "lightning-fabric")
    where["device"] = torch.cuda.get_device_name() if gpu else "CPU"
    name = "-".join(["fuse", *(["gpu"] if gpu else []), *(["fits"] if given.trials else [])])
    report(name, "one by one / together, training steps on stored features", beside(name, rows), where)


if __name__ == "__main__":
    main()
