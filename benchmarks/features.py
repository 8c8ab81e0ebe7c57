"""A head sweep on a frozen backbone with its outputs computed once, and the same sweep without; one step of each.

    python -m benchmarks.features

Needs no data and no network; takes about ten minutes on two cores. One thread, the same weights, clips and seeds; a
trial is a fit of three epochs and the scoring of validation and test. Each uncached trial is followed by its cached
twin.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric

from benchmarks.making import make_splits
from benchmarks.measure import in_turns, machine, report, row
from deepfake.data.clips import ClipSource
from deepfake.models.backbone import Backbone, create_backbone
from deepfake.models.detector import Detector
from deepfake.models.heads import create_head
from deepfake.models.options import BackboneOptions, Gru, HeadOptions, Lstm, Mean
from deepfake.training.features.cache import FeatureCache
from deepfake.training.optimizers import create_optimizer, parameter_groups
from deepfake.training.options import AdamW, Cosine, TrainerOptions
from deepfake.training.profiling import Clock
from deepfake.training.runtime import create_fabric
from deepfake.training.scoring import score
from deepfake.training.train_step import EpochSums, Loss, Updater
from deepfake.training.trainer import FitOptions, Trainer

CLIPS = {"train": 96, "val": 32, "test": 32}
FRAMES, SIZE, EPOCHS, BATCH, ROUNDS = 4, 224, 3, 16, 3
HEADS: tuple[HeadOptions, ...] = (Mean(), Lstm(hidden=32), Lstm(hidden=64), Gru(hidden=64))
RATES = (3e-4, 1e-3, 2e-3, 4e-3, 8e-3)
#: One step of the larger backbone: clips, frames, pixels.
STEP = (16, 8, 160)


@dataclass
class Trial:
    """One point of the sweep: how long it took, and what it came to."""

    seconds: float
    roc_auc: float
    loss: float


def settled(name: str, frames: torch.Tensor) -> Backbone:
    """A backbone with random weights whose batch statistics fit these frames [N, 3, S, S], so that no unit is dead."""
    torch.manual_seed(0)
    backbone = create_backbone(BackboneOptions(name=name, pretrained=False), frames.shape[-1])
    backbone.train()
    with torch.no_grad():
        for _ in range(20):
            backbone.vectors(frames.float() / 255 - 0.5)
    return backbone.eval()


def with_head(backbone: Backbone, options: HeadOptions) -> Detector:
    """A frozen detector on a copy of the backbone."""
    torch.manual_seed(1)
    own = copy.deepcopy(backbone)
    return Detector(own, create_head(options, own.width(options.reads)), options.reads, freeze=True)


def run_trial(
    detector: Detector, splits: Mapping[str, ClipSource], rate: float, fabric: Fabric, options: TrainerOptions
) -> tuple[float, float]:
    """Fit and score; validation's best ROC-AUC and loss."""
    with tempfile.TemporaryDirectory() as folder:
        result = Trainer(
            detector,
            splits["train"],
            splits["val"],
            FitOptions(options, AdamW(lr=rate), Cosine()),
            fabric,
            Path(folder),
        ).fit(lambda epoch, metrics: None)
        for split in ("val", "test"):
            score(detector, splits[split], fabric=fabric, batch_size=BATCH, split=split)
    return result.best_metrics["val/roc_auc"], result.best_metrics["val/loss"]


def sweep(folder: Path, fabric: Fabric) -> list[dict[str, object]]:
    """Twenty points, each with and without the cache."""
    splits = make_splits(folder, CLIPS, FRAMES, SIZE)
    contents = splits["train"].store.contents
    backbone = settled("mobilenetv3_small_100", splits["train"].fetch(range(16)).clips.flatten(0, 1))
    options = TrainerOptions(epochs=EPOCHS, batch_size=BATCH, accelerator="cpu", precision="32")
    kept: dict[str, torch.Tensor] = {}

    def keep(key: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        return kept[key] if key in kept else kept.setdefault(key, make())

    def cached(detector: Detector) -> tuple[Detector, Mapping[str, ClipSource]]:
        cache = FeatureCache(folder / "features", "mobilenetv3_small_100", fabric, lambda line: None, keep=keep)
        found = cache.read(detector, splits, contents, seed=0)
        assert found is not None
        return found

    # What is imported and compiled at its first use is no part of either way.
    run_trial(with_head(backbone, HEADS[0]), splits, RATES[0], fabric, options)
    plain, fast, filling = [], [], 0.0
    for head, rate in itertools.product(HEADS, RATES):
        began = time.process_time()
        found = run_trial(with_head(backbone, head), splits, rate, fabric, options)
        plain.append(Trial(time.process_time() - began, *found))
        began = time.process_time()
        detector, sets = cached(with_head(backbone, head))
        filled = time.process_time()
        found = run_trial(detector, sets, rate, fabric, options)
        fast.append(Trial(time.process_time() - (began if fast else filled), *found))
        filling = filling or filled - began
    return _rows(plain, fast, filling)


def _rows(plain: list[Trial], fast: list[Trial], filling: float) -> list[dict[str, object]]:
    slow, quick = (statistics.median(trial.seconds for trial in trials) for trials in (plain, fast))
    slow_sum, quick_sum = sum(trial.seconds for trial in plain), filling + sum(trial.seconds for trial in fast)
    best = [max(range(len(ts)), key=lambda i: (ts[i].roc_auc, -ts[i].loss)) for ts in (plain, fast)]
    pairs = list(zip(plain, fast, strict=True))
    return [
        row(
            "a trial read from clips / from stored features, mobilenetv3_small, 3 epochs",
            slow / quick,
            ">= 15",
            clips_s=slow,
            features_s=quick,
        ),
        row(
            f"a sweep of {len(plain)} trials from clips / from stored features, filling counted",
            slow_sum / quick_sum,
            ">= 10",
            clips_s=slow_sum,
            features_s=quick_sum,
            filling_s=filling,
            best_trials=f"{best[0]} and {best[1]}: {'the same' if best[0] == best[1] else 'DIFFERENT'}",
            largest_auc_difference=max(abs(a.roc_auc - b.roc_auc) for a, b in pairs),
            largest_loss_difference=max(abs(a.loss - b.loss) for a, b in pairs),
        ),
    ]


def step(folder: Path, fabric: Fabric) -> dict[str, object]:
    """One optimizer step on resnet18's outputs, computed for it and stored."""
    clips, frames, size = STEP
    splits = make_splits(folder, {"train": clips}, frames, size)
    backbone = settled("resnet18", splits["train"].fetch(range(4)).clips.flatten(0, 1))
    detector = with_head(backbone, Lstm(hidden=64))
    cache = FeatureCache(folder / "features", "resnet18", fabric, lambda line: None)
    found = cache.read(detector, splits, splits["train"].store.contents, seed=0)
    assert found is not None
    reader, sets = found
    ways = {
        "clips": _stepping(with_head(backbone, Lstm(hidden=64)), splits["train"], fabric),
        "features": _stepping(reader, sets["train"], fabric),
    }
    for warm_up in ways.values():
        warm_up()
    seconds = in_turns(ways, ROUNDS)
    ratio = seconds["clips"] / seconds["features"]
    milliseconds = {f"{name}_ms": 1000 * value for name, value in seconds.items()}
    return row("a step from clips / from stored features, resnet18 + LSTM", ratio, ">= 100", **milliseconds)


def _stepping(detector: Detector, source: ClipSource, fabric: Fabric) -> Callable[[], None]:
    detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    options = AdamW(lr=1e-3, weight_decay=0.01)
    optimizer = create_optimizer(options, parameter_groups(detector, options), fused=True)
    model, wrapped = fabric.setup(detector, optimizer)
    updater = Updater(fabric, model, wrapped, Loss(torch.tensor(1.0)), 1.0, Clock(fabric.device, False))
    detector.train()
    return lambda: updater.step([source.fetch(range(len(source)))], len(source), 0, EpochSums())


def main() -> None:
    """Measure, print, keep."""
    torch.set_num_threads(1)
    fabric = create_fabric(TrainerOptions(accelerator="cpu", precision="32"))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        rows = [*sweep(Path(one), fabric), step(Path(two), fabric)]
    method = (
        f"frozen backbone with random weights; sweep: {CLIPS} clips of {FRAMES} frames of {SIZE} pixels, "
        f"batch {BATCH}, {len(HEADS)} heads x {len(RATES)} rates, medians over the trials; step: {STEP[0]} clips of "
        f"{STEP[1]} frames of {STEP[2]} pixels, median of {ROUNDS}; one thread, CPU seconds"
    )
    report("features", method, rows, machine("torch", "timm", "lightning-fabric"))


if __name__ == "__main__":
    main()
