"""A run at its start, with its data, on fakes that a random backbone sees."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from benchmarks.making import make_splits
from deepfake.config import PathOptions, RunConfig
from deepfake.data.audit import Audit
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.options import DatasetOptions
from deepfake.models.options import BackboneOptions, Mean
from deepfake.runs.build import Data, Run
from deepfake.runs.console import Console
from deepfake.tracking.run import RunLog
from deepfake.tracking.run_folder import RunFolder
from deepfake.training.options import EvaluationOptions, FeatureOptions, TrainerOptions
from tests.training.fakes import cpu, tiny_detector


def run_of(place: Path, asked: str | bool = "auto", *, cached: bool = False, **backbone: Any) -> Run:
    """A run at its start: 40 samples to train on, 24 to test.

    Args:
        place: Gets its crops, its folder and its outputs.
        asked: Whether for a probe, and for what it leans on.
        cached: Whether its backbone is frozen and it is to read stored features.
        backbone: Further keys.
    """
    (place / "crops").mkdir(parents=True)
    splits = make_splits(place / "crops", {"train": 40, "val": 4, "test": 24}, 2, 16)
    table = pd.concat([clips.table for clips in splits.values()])
    rows = [
        {**row, "path": row["sample_id"], "kind": "video"} for row in table.drop(columns="status").to_dict("records")
    ]
    config = RunConfig(
        paths=PathOptions(str(place / "outputs")),
        backbone=BackboneOptions(**{"name": "tiny", "pretrained": False, "freeze": cached, **backbone}),
        head=Mean(),
        dataset=DatasetOptions(size=16, frames=2, faces="none"),
        evaluation=EvaluationOptions(probe=asked, leaning=asked),
        features=FeatureOptions(cached=cached),
        trainer=TrainerOptions(accelerator="cpu"),
    )
    (place / "run").mkdir()
    data = Data(Manifest(make_rows(rows), {"made": place}), splits["train"].store, Audit(), dict(splits))
    detector = tiny_detector(Mean(), 16, freeze=cached)
    context: Any = SimpleNamespace(number=None, swept={})
    return Run(config, context, RunFolder(place / "run"), RunLog(), Console(quiet=True), cpu(), data, detector)
