"""A trained detector's validation and test splits to predictions, a fitted threshold and numbers. Keeps nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepfake.commands.data import Data
from deepfake.config import RunConfig
from deepfake.metrics import Metrics, metric_names, sample_metrics
from deepfake.training.decision import Decision, fit_decision
from deepfake.training.evaluation import evaluate_predictions, resampling_units

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.models.detector import Detector


@dataclass
class Judgement:
    """What is said of a run once it is trained.

    Attributes:
        predictions: Of validation and test, a row per sample.
        clips: A row per clip.
        decision: Fitted on validation.
        metrics: ``val/…`` and ``test/…``; ``unavailable`` says why some are missing.
        notes: How intervals were made, and the confusion matrices, by split.
    """

    predictions: pd.DataFrame
    clips: pd.DataFrame
    decision: Decision
    metrics: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def add(self, prefix: str, found: Metrics) -> None:
        """Take metrics over under a prefix."""
        self.metrics |= {f"{prefix}/{name}": value for name, value in found.values.items()}
        self.unavailable |= {f"{prefix}/{name}": reason for name, reason in found.unavailable.items()}


def judge(
    config: RunConfig, data: Data, detector: Detector, fabric: Fabric, batch_size: int, workers: int = 0
) -> Judgement:
    """Score validation, fit on it, and score test once; intervals are drawn over groups."""
    from deepfake.training.score import score

    options = config.evaluation
    val, test = (
        score(
            detector,
            data.splits[split],
            fabric=fabric,
            batch_size=batch_size,
            split=split,
            num_workers=workers,
            options=options,
        )
        for split in ("val", "test")
    )
    decision = fit_decision(val.samples, options, config.trainer.threshold, f"the val split of {config.dataset.name}")
    groups = data.manifest.table.set_index("sample_id")["groups"].reindex(test.samples["sample_id"])
    units = resampling_units(groups.reset_index(drop=True), test.samples["label"].to_numpy())
    found = evaluate_predictions(test.samples, decision, options, units, metric_names(headline=True))
    judgement = Judgement(
        predictions=pd.concat([val.samples, test.samples], ignore_index=True),
        clips=pd.concat([val.clips, test.clips], ignore_index=True),
        decision=decision,
        notes={
            "intervals": {f"test/{name}": how for name, how in found.intervals.items()},
            "confusion": {f"test/{name}": counts for name, counts in found.confusion.items()},
            "pooling": decision.pooling,
        },
    )
    judgement.add("val", sample_metrics(val.samples, config.trainer.threshold))
    judgement.add("val/frame", val.frame_metrics())
    judgement.add("test", found)
    judgement.add("test/frame", test.frame_metrics())
    return judgement
