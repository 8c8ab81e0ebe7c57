"""How many trials a second a device does when so many processes share it; each trial fits a head on stored features.

What a process needs before its first trial (imports, a context on the device, a trial that warms up) is not counted:
a sweep's workers pay for it once.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from deepfake.data.clips import ClipSource
from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, Lstm
from deepfake.training.features.extract import FeatureReader, FeatureSet
from deepfake.training.features.feature_store import FeatureLayout
from deepfake.training.options import AdamW, Cosine, TrainerOptions
from deepfake.training.runtime import create_fabric
from deepfake.training.trainer import FitOptions, Trainer

_FRAMES = 8
_PATIENCE = 300  # seconds for all processes to be ready


class _Clips(ClipSource):
    """As much of a split as its features need: names, labels, lengths."""

    def __init__(self, name: str, clips: int) -> None:
        labels = np.arange(clips) % 2
        names = [f"{name}/{i:05d}" for i in range(clips)]
        self.table = pd.DataFrame(
            {"sample_id": names, "label": labels, "method": "none", "dataset": "made", "status": "ok"}
        )
        self.items = np.stack([np.arange(clips), np.zeros(clips, np.int64)], 1)
        self.labels = labels.astype(np.float32)
        self.lengths = np.full(clips, _FRAMES)


def trials_a_second(processes: int, trials: int, clips: int, epochs: int, device: str) -> float:
    """Trials over the seconds from when all processes are ready until the last is done.

    Args:
        processes: That share the device; the trials are dealt to them.
        trials: In all; a multiple of ``processes``.
        clips: In training and in validation, each.
        epochs: Of each trial.
        device: ``cuda`` or ``cpu``.
    """
    context = multiprocessing.get_context("spawn")
    ready, done = context.Barrier(processes + 1), context.Barrier(processes + 1)
    arguments = (ready, done, trials // processes, clips, epochs, device)
    workers = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    ready.wait(_PATIENCE)
    began = time.perf_counter()
    done.wait(_PATIENCE)
    seconds = time.perf_counter() - began
    for worker in workers:
        worker.join()
    return trials / seconds


def _work(ready: Barrier, done: Barrier, trials: int, clips: int, epochs: int, device: str) -> None:
    torch.set_num_threads(1)
    sets = _features(clips, device)
    _trial(sets, 1, device)
    ready.wait(_PATIENCE)
    for _ in range(trials):
        _trial(sets, epochs, device)
    done.wait(_PATIENCE)


def _features(clips: int, device: str) -> dict[str, FeatureSet]:
    splits = {name: _Clips(name, clips) for name in ("train", "val")}
    contents = {name: name for split in splits.values() for name in split.table["sample_id"]}
    layout = FeatureLayout.of(list(splits.values()), contents, drawn=False)
    width = _detector().backbone.features
    frames = torch.randn(layout.frames, width, generator=torch.Generator().manual_seed(0)).to(device)
    return {name: FeatureSet(split, frames, layout, seed=0) for name, split in splits.items()}


def _detector() -> Detector:
    return create_detector(BackboneOptions(name="tiny", pretrained=False, freeze=True), Lstm(hidden=128), 64)


def _trial(sets: dict[str, FeatureSet], epochs: int, device: str) -> None:
    options = TrainerOptions(epochs=epochs, batch_size=32, accelerator=device, precision="32")
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            FeatureReader(_detector(), torch.float32),
            sets["train"],
            sets["val"],
            FitOptions(options, AdamW(), Cosine()),
            create_fabric(options),
            Path(folder),
        ).fit(lambda epoch, metrics: None)
