"""One detector on one split, in training and after: predictions, threshold, numbers, robustness. Keeps nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepfake.config import RunConfig
from deepfake.data.clips import ClipSet
from deepfake.data.corruptions import KINDS, DamagedClips, Kind
from deepfake.data.crop_store import CropStore
from deepfake.data.dataset import read_dataset
from deepfake.data.manifest import SPLITS, Manifest
from deepfake.errors import DataError, UserError, nearest
from deepfake.metrics import Metrics, metric_names, sample_metrics
from deepfake.runs.build import Data, audit, failures, prepare
from deepfake.runs.caveats import Kinship, doubts, holds_own, kinship
from deepfake.runs.console import Console
from deepfake.runs.load import Trained
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_folder import RunRecord
from deepfake.training.decision import Decision, fit_decision
from deepfake.training.evaluation import (
    Evaluation,
    Units,
    auc_bounds,
    break_down,
    evaluate_predictions,
    macro_average,
    resampling_units,
    usual_columns,
)
from deepfake.training.scoring import Scored, sample_table, score, score_clips

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
    if record.has(files.MANIFEST) and holds_own(record.manifest("bytes"), manifest.table):
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
    if not name.strip("."):
        # Nothing, . and .. would name the folder above, where the run's own numbers are.
        name = name.replace(".", "_") or "_"
    return name if split == "test" else f"{name}/{split}"


def _taken(trained: Trained, place: str, target: Target) -> bool:
    """Whether an evaluation of other data lies there; one of the same data is done again in its place."""
    kept = f"{FOLDER}/{place}/{files.METRICS}"
    if not trained.record.has(kept):
        return False
    try:
        told = json.loads(trained.record.file(kept).read_text(encoding="utf-8"))["data"]["manifest"]
    except (ValueError, KeyError, TypeError, RecursionError):
        # Damaged, it may be of anything.
        return True
    return bool(told != target.manifest.digest())


def robustness_curves(trained: Trained, result: Evaluated, console: Console) -> dict[str, pd.DataFrame]:
    """A curve for each kind of damage.

    Args:
        trained: The run.
        result: Of the untouched clips.
        console: Told what is left out, and how far it is.

    Returns:
        By kind: ``severity`` (mildest first), ``value`` (NaN where not defined), ``low``, ``high`` (DeLong over the
        units of the whole; NaN where they are too few); ``attrs["unit"]`` names the severity. Damage over time is
        left out where samples are single frames.
    """
    frames = max(result.clips.shape[0], 1)
    if "roc_auc" not in result.found.values:
        console.warn(f"no robustness curves: the ROC-AUC has none to fall from ({result.found.unavailable['roc_auc']})")
        return {}
    curves = {}
    for name, kind in KINDS.items():
        if kind.over_time and frames == 1:
            console.say(f"note: {name} does nothing to single images and is left out")
            continue
        curves[name] = _curve(trained, result, name, kind, console)
    return curves


def _curve(trained: Trained, result: Evaluated, name: str, kind: Kind, console: Console) -> pd.DataFrame:
    options = result.target.config.evaluation
    rows = []
    for severity in kind.severities:
        damaged = DamagedClips(result.clips, kind, severity)
        with console.progress() as bar:
            scores = score_clips(
                trained.detector,
                damaged,
                fabric=trained.fabric,
                batch_size=trained.batch_size,
                progress=bar,
                text=f"{name} {severity:g}",
            )
        table = sample_table(damaged, scores, result.target.split, options)
        rows.append({"severity": severity, **_numbers(table, options.level, result.units)})
    curve = pd.DataFrame(rows)
    curve.attrs["unit"] = kind.unit
    return curve


def _numbers(table: pd.DataFrame, level: float, units: Units) -> dict[str, float]:
    scored = (table["status"] == "ok").to_numpy()
    counted = table[scored]
    labels, scores = counted["label"].to_numpy(np.int64), counted["score"].to_numpy(np.float64)
    low, high, _ = auc_bounds(labels, scores, units.of(scored), level)
    return {"value": sample_metrics(counted).values["roc_auc"], "low": low, "high": high}
