"""A run of the past made ready for use: its detector with its weights, its threshold and calibration, a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from deepfake.config import RunConfig, load_config, load_values
from deepfake.data.clips import ClipSource
from deepfake.errors import UserError
from deepfake.progress import Progress
from deepfake.runs.build import load_detector
from deepfake.runs.console import Console
from deepfake.runs.saved_config import Changes, read_changes, with_changes
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_record import RunRecord
from deepfake.tracking.search import find_run
from deepfake.tracking.store import Store, locate
from deepfake.training.decision import Decision, fit_decision, load_decision, pooling_name
from deepfake.training.options import EvaluationOptions
from deepfake.training.scoring import Scored, pool_clips, score

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.models.detector import Detector

_DEFAULT_BATCH = 32
#: With fewer validation samples of a class, a threshold fitted on them is mostly chance.
_FEW = 10


@dataclass
class Trained:
    """A detector that can be used, and how it is to be read.

    Attributes:
        record: Its run.
        config: The run's config, with what was typed laid over it.
        changes: What was typed.
        store: Where the run is remembered.
        detector: With the best epoch's weights, on the fabric's device, in evaluation mode.
        fabric: Where it works.
        decision: Threshold and calibrator.
    """

    record: RunRecord
    config: RunConfig
    changes: Changes
    store: Store
    detector: Detector
    fabric: Fabric
    decision: Decision

    @property
    def batch_size(self) -> int:
        """Clips at once."""
        asked = self.config.trainer.batch_size
        return asked if isinstance(asked, int) else _DEFAULT_BATCH

    def score(self, clips: ClipSource, split: str, progress: Progress | None = None) -> Scored:
        """Score clips as the run's own were; see :func:`deepfake.training.scoring.score`."""
        return score(
            self.detector,
            clips,
            fabric=self.fabric,
            batch_size=self.batch_size,
            split=split,
            progress=progress,
            options=self.config.evaluation,
        )


def find_trained(reference: str, overrides: Sequence[str]) -> tuple[RunRecord, Changes, Store]:
    """The run that is meant, once it is sure that it can be used; see :func:`open_run`."""
    changes = read_changes(overrides)
    store = locate(load_config(changes.config).tracking, changes.outputs)
    record = find_run(reference, store, changes.outputs).require_finished()
    record.weights()
    if record.has(files.PROVENANCE):
        # A run that a newer version wrote is refused here rather than misread later.
        record.provenance()
    return record, changes, store


def open_run(reference: str, overrides: Sequence[str], console: Console) -> Trained:
    """Find a run and load it.

    Args:
        reference: As :func:`deepfake.tracking.search.find_run` takes it.
        overrides: Of data, scoring and the machine; see :mod:`deepfake.runs.saved_config`.
        console: Told what is not as it was.

    Raises:
        UserError: No such run, unfinished, its weights deleted or of another model, or an override that would
            change the model.
    """
    from deepfake.training.runtime import create_fabric, seed_everything

    record, changes, store = find_trained(reference, overrides)
    config = with_changes(record, changes)
    fabric = create_fabric(config.trainer)
    seed_everything(config.seed, config.trainer.deterministic)
    detector = load_detector(config, record.weights())
    if config.trainer.channels_last:
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector.to(fabric.device).eval()
    decision = read_decision(record, config.evaluation, config.trainer.threshold)
    for name, reason in decision.unavailable.items():
        if config.evaluation.calibration != "none" or name != "calibrator":
            console.warn(f"no {name} was fitted: {reason}")
    few = min(decision.fitted_on.get("real", _FEW), decision.fitted_on.get("fake", _FEW))
    if 0 < few < _FEW:
        console.warn(f"threshold and calibration were fitted on only {few} validation samples of one class")
    return Trained(record, config, changes, store, detector, fabric, decision)


def read_decision(record: RunRecord, options: EvaluationOptions, default: float) -> Decision:
    """What the run fitted on validation; fitted anew where it was asked for otherwise, or by a run that fitted none.

    Args:
        record: The run.
        options: How it is to be fitted.
        default: The threshold that was set.
    """
    if record.has(files.CALIBRATION):
        saved = load_decision(record.calibration())
        if _same_fit(load_values(record.config()).evaluation, options) and saved.default == default:
            return saved
    try:
        val = validation(record, options)
    except UserError as error:
        missing = {"threshold": error.message, "calibrator": error.message}
        return Decision(default, None, options.threshold, None, pooling_name(options), {}, missing)
    return fit_decision(val, options, default, f"the val split of {record.config()['dataset']['name']}")


def validation(record: RunRecord, options: EvaluationOptions) -> pd.DataFrame:
    """The run's validation predictions, each video's score made of its clips' as the options say.

    Raises:
        UserError: They are gone, or clips' scores are asked for that an older run did not keep.
    """
    predictions = record.predictions("split", "status", "label")
    val = predictions[predictions["split"] == "val"].reset_index(drop=True)
    if not record.has(files.CLIPS):
        if options.clips == "mean":
            return val
        raise UserError(
            f"run {record} kept no clips' scores to make evaluation.clips={options.clips} of", "leave it at mean"
        )
    clips = record.clips()
    clips = clips[clips["split"] == "val"]
    rows = pd.Index(val["sample_id"]).get_indexer(clips["sample_id"])
    scores = pool_clips(rows, clips["logit"].to_numpy(), len(val), options.clips, options.top_k)
    return val.assign(score=scores)


def _same_fit(then: EvaluationOptions, now: EvaluationOptions) -> bool:
    same = all(getattr(then, name) == getattr(now, name) for name in ("clips", "threshold", "calibration"))
    return same and (now.clips != "topk" or then.top_k == now.top_k)
