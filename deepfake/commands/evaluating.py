"""One trained run on one data set: predictions, numbers, breakdowns, coverage and doubts. Writes and prints nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from deepfake.commands.console import Console
from deepfake.commands.data import audit, failures, prepare
from deepfake.commands.doubts import Kinship, doubts, holds_own, kinship
from deepfake.commands.trained import Trained
from deepfake.config import RunConfig
from deepfake.data.clips import ClipSet
from deepfake.data.manifest import SPLITS, Manifest
from deepfake.data.read import read_dataset
from deepfake.data.store import CropStore
from deepfake.errors import DataError, UserError, nearest
from deepfake.tracking import folder as files
from deepfake.tracking.record import RunRecord
from deepfake.training.breakdown import break_down, macro_average, usual_columns
from deepfake.training.evaluation import Evaluation, Units, evaluate_predictions, resampling_units
from deepfake.training.score import Scored, score

ALL = "all"
#: In a run's folder and among its artifacts and metrics: evaluations, each below the name of its data.
FOLDER = "eval"


@dataclass(frozen=True)
class Target:
    """What to score.

    Attributes:
        config: The run's, on this data.
        split: Which part.
        manifest: Its samples.
        named: Whether the user gave the data set its name.
    """

    config: RunConfig
    split: str
    manifest: Manifest
    named: bool


@dataclass
class Evaluated:
    """What came out.

    Attributes:
        name: Where it is kept: the data set, and the split where that is not test.
        target: What was scored.
        store: The crops; ``clips`` are read from it.
        scored: The detector's own tables; ``predictions`` has calibrated probabilities and the manifest's columns too.
        units: What intervals are drawn over.
        found: The numbers.
        frames: Those over single frames.
        groups: Breakdowns; ``macro`` is the ROC-AUC's mean over methods.
        coverage: Samples by what became of them, as numbers; ``failed`` names those without a score.
        kin: How the data relates to the run's own.
        warnings: Why the numbers may mean less than they look.
    """

    name: str
    target: Target
    store: CropStore
    clips: ClipSet
    scored: Scored
    predictions: pd.DataFrame
    units: Units
    found: Evaluation
    groups: pd.DataFrame
    macro: float | None
    coverage: dict[str, float]
    kin: Kinship
    failed: pd.DataFrame
    warnings: list[str] = field(default_factory=list)

    @property
    def covered(self) -> bool:
        """Whether enough samples have a score."""
        return self.coverage["share"] >= self.target.config.evaluation.min_coverage

    def metrics(self) -> dict[str, float]:
        """Every number by name, without a prefix."""
        values = {**self.found.values, **{f"coverage/{name}": value for name, value in self.coverage.items()}}
        values |= {f"frame/{name}": value for name, value in self.scored.frame_metrics().values.items()}
        if self.macro is not None:
            values["macro_roc_auc"] = self.macro
        for row in self.groups.to_dict("records"):
            if pd.notna(row["roc_auc"]):
                values[f"by/{row['by']}/{row['group']}/roc_auc"] = float(row["roc_auc"])
        return values


def read_part(config: RunConfig, split: str, record: RunRecord, console: Console) -> Manifest:
    """The samples of one split of the configured data set, or of all of it.

    The run's own data set has the splits it was trained with; of another one without a training part all is test.

    Raises:
        UserError: No such split, or nothing in it.
    """
    if split not in (*SPLITS, ALL):
        raise UserError(f"split={split!r} is not a split", nearest(split, (*SPLITS, ALL)))
    manifest = read_dataset(config.dataset, config.cache, config.demo, trains=False)
    if record.has(files.MANIFEST) and holds_own(record.manifest(), manifest.table):
        manifest = read_dataset(config.dataset, config.cache, config.demo)
    for note in manifest.notes:
        console.say(f"note: {note}")
    if split == ALL:
        return manifest
    part = manifest.split(split)
    if part.empty:
        counts = manifest.table["split"].value_counts()
        held = ", ".join(f"{name} {counts[name]}" for name in SPLITS if name in counts)
        raise DataError(f"the {split} part of {config.dataset.name} is empty", f"it has {held}; split=all takes all")
    return replace(manifest, table=part.reset_index(drop=True))


def evaluate_data(trained: Trained, target: Target, columns: Sequence[str], console: Console) -> Evaluated:
    """Score samples and compute all that is told of them.

    Args:
        trained: The run.
        target: What to score.
        columns: Breakdowns beyond the usual ones.
        console: For progress.

    Raises:
        UserError: A column that is not there, or scores that are no numbers.
    """
    config, manifest = target.config, target.manifest
    _check_columns(columns, manifest)
    # How many failed is told as coverage, which has a limit of its own.
    store = prepare(replace(config, dataset=replace(config.dataset, max_failed=1.0)), manifest, console)
    clips = ClipSet(store, manifest.table)
    with console.progress() as bar:
        scored = score(
            trained.detector,
            clips,
            fabric=trained.fabric,
            batch_size=trained.batch_size,
            split=target.split,
            progress=bar,
            options=config.evaluation,
        )
    predictions = _with_columns(scored.samples, manifest, trained)
    units = resampling_units(manifest.table["groups"], manifest.table["label"].to_numpy())
    try:
        found = evaluate_predictions(predictions, trained.decision, config.evaluation, units)
    except ValueError as error:
        raise UserError(
            f"{config.dataset.name} cannot be evaluated: {error}", "the run's training may have diverged; name another"
        ) from error
    wanted = list(dict.fromkeys([*usual_columns(predictions), *columns]))
    groups = break_down(predictions, wanted, trained.decision, config.evaluation.level, units)
    digests = store.samples["sha256"].reindex(manifest.table["sample_id"])
    kin = kinship(trained.record, manifest.table, digests)
    result = Evaluated(
        name=_name(trained, target),
        target=target,
        store=store,
        clips=clips,
        scored=scored,
        predictions=predictions,
        units=units,
        found=found,
        groups=groups,
        macro=macro_average(groups),
        coverage=_coverage(store, predictions),
        kin=kin,
        failed=failures(store),
    )
    # Whatever the split is called, it is what is tested on here.
    tested = replace(manifest, table=manifest.table.assign(split="test"))
    result.warnings = doubts(
        trained.record,
        kin,
        found.values,
        result.coverage["share"],
        config.evaluation.min_coverage,
        audit(tested, store).warnings,
    )
    if not kin.other and target.split in ("val", ALL):
        result.warnings.insert(
            0, "best epoch, threshold and calibration were chosen on validation, which is scored here"
        )
    return result


def _check_columns(columns: Sequence[str], manifest: Manifest) -> None:
    for column in columns:
        if column not in manifest.table.columns:
            known = sorted(set(manifest.table.columns) - {"path", "bytes", "sha256", "sample_id"})
            raise UserError(f"there is no column {column!r} to break down by", nearest(column, known))


def _with_columns(samples: pd.DataFrame, manifest: Manifest, trained: Trained) -> pd.DataFrame:
    """Predictions with calibrated probabilities, each sample's own split, and what else the manifest says of it."""
    own = manifest.table.reset_index(drop=True)
    extra = [name for name in own.columns if name not in samples.columns and name not in ("path", "bytes", "sha256")]
    calibrated = trained.decision.calibrated(samples["score"].to_numpy())
    return pd.concat([samples.assign(split=own["split"], calibrated=calibrated), own[extra]], axis=1)


def _coverage(store: CropStore, predictions: pd.DataFrame) -> dict[str, float]:
    counts = {str(name): float(count) for name, count in predictions["status"].value_counts().items()}
    frames = int(store.samples["frames"].sum())
    found = {"samples": float(len(predictions)), "scored": counts.pop("ok", 0.0)}
    found["failed"] = found["samples"] - found["scored"]
    found["share"] = found["scored"] / found["samples"]
    found["filled"] = float(store.samples["filled"].sum()) / frames if frames else 0.0
    return found | {f"status_{name}": count for name, count in sorted(counts.items())}


def _name(trained: Trained, target: Target) -> str:
    """The data set's name, with more of it where the run keeps other data's evaluation under the same name."""
    dataset = target.config.dataset
    names = [dataset.name]
    if not target.named:
        source = Path(dataset.root or dataset.table or "").stem
        names += [f"{dataset.name}-{more}" for more in (source, target.manifest.digest()[:8]) if more]
    places = [_place(name, target.split) for name in names]
    return next((place for place in places if not _taken(trained, place, target)), places[-1])


def _place(name: str, split: str) -> str:
    name = re.sub(r"[^\w.-]+", "_", name)
    return name if split == "test" else f"{name}/{split}"


def _taken(trained: Trained, place: str, target: Target) -> bool:
    """Whether an evaluation of other data lies there; one of the same data is done again in its place."""
    kept = f"{FOLDER}/{place}/{files.METRICS}"
    if not trained.record.has(kept):
        return False
    told = json.loads(trained.record.file(kept).read_text(encoding="utf-8"))
    return told["data"]["manifest"] != target.manifest.digest()
