"""One detector on one split, in training and after: predictions, threshold, numbers, robustness. Keeps nothing."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

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
from deepfake.runs.build import Run, audit, failures, prepare
from deepfake.runs.caveats import Overlap, caveats, find_overlap, same_samples
from deepfake.runs.console import Console
from deepfake.runs.load import Ensemble, Trained
from deepfake.runs.saved_config import Changes, with_changes
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_record import RunRecord
from deepfake.training.decision import Decision
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
from deepfake.training.fitting import fit_decision
from deepfake.training.options import EvaluationOptions
from deepfake.training.scoring import (
    Scored,
    average_samples,
    average_scored,
    join_clips,
    sample_table,
    score,
    score_clips,
)
from deepfake.training.views import viewed

if TYPE_CHECKING:
    from deepfake.training.trainer import FitResult

#: What ``split=`` takes for every split at once.
ALL = "all"
#: In a run's folder and among its artifacts and metrics: evaluations, each below the name of its data.
FOLDER = "eval"


@dataclass
class Evaluated:
    """A detector's scores and every number computed of them.

    Attributes:
        predictions: A row per sample, those without a score included.
        clips: A row per clip.
        frames: A row per frame; None where there are none, or they are not kept.
        decision: How scores are read.
        units: What intervals are drawn over.
        found: The numbers, and why some are missing; where there are two splits, by ``val/…`` and ``test/…``.
    """

    predictions: pd.DataFrame
    clips: pd.DataFrame
    frames: pd.DataFrame | None
    decision: Decision
    units: Units
    found: Evaluation


def measure(
    scored: Scored,
    manifest: Manifest,
    decision: Decision,
    options: EvaluationOptions,
    intervals: Sequence[str] | None = None,
) -> Evaluated:
    """Every number of the scores of one split.

    Args:
        scored: What the detector said.
        manifest: Knows which samples share footage or people: intervals are drawn over these groups.
        decision: Thresholds and calibrator.
        options: Draws and confidence of the intervals.
        intervals: The metrics that get one; None for all.

    Raises:
        ValueError: Scores that are no numbers.
    """
    samples = scored.samples
    groups = manifest.table.set_index("sample_id")["groups"].reindex(samples["sample_id"]).reset_index(drop=True)
    units = resampling_units(groups, samples["label"].to_numpy())
    found = evaluate_predictions(samples, decision, options, units, intervals)
    return Evaluated(samples, scored.clips, scored.frames, decision, units, found)


def evaluate_run(run: Run, result: FitResult) -> Evaluated:
    """Score validation, fit on it, and score test once, with the best epoch's weights."""
    from deepfake.training.profiling import latency_ms, peak_memory

    config, options = run.config, run.config.evaluation
    val, test = (
        score(
            run.detector,
            run.data.splits[split],
            fabric=run.fabric,
            batch_size=result.batch_size,
            split=split,
            num_workers=result.workers,
            options=options,
        )
        for split in ("val", "test")
    )
    decision = fit_decision(val.samples, options, config.trainer.threshold, f"the val split of {config.dataset.name}")
    evaluated = measure_splits(val, test, run.data.manifest, decision, options)
    found = evaluated.found
    frames = int(max(run.data.splits["train"].lengths))
    found.values |= {name: value for name, value in result.best_metrics.items() if name.startswith("select/")}
    found.values |= {
        "best_epoch": float(result.best_epoch + 1),
        "epochs_run": float(result.epochs_run),
        "batch_size": float(result.batch_size),
        "train_seconds": result.seconds,
        **_epoch_seconds(result),
        "peak_memory_bytes": peak_memory(run.fabric.device),
        "parameters": float(sum(p.numel() for p in run.detector.parameters())),
        "latency_ms": latency_ms(run.detector, frames, config.dataset.size, run.fabric),
    }
    return evaluated


def _epoch_seconds(result: FitResult) -> dict[str, float]:
    """The median epoch's seconds: the first warms caches, and one of many may have waited for somebody else."""
    found = [epoch["epoch_seconds"] for epoch in result.history if "epoch_seconds" in epoch]
    return {"epoch_seconds": statistics.median(found)} if found else {}


def measure_splits(
    val: Scored, test: Scored, manifest: Manifest, decision: Decision, options: EvaluationOptions
) -> Evaluated:
    """Every number of a run's own splits, by ``val/…`` and ``test/…``; intervals are of test.

    Args:
        val: The scores that the decision was fitted on.
        test: The scores that it is held to.
        manifest: See :func:`measure`.
        decision: Thresholds and calibrator.
        options: Draws and confidence of the intervals.
    """
    tested = measure(test, manifest, decision, options, metric_names(headline=True))
    found = Evaluation(
        intervals={f"test/{name}": how for name, how in tested.found.intervals.items()},
        confusion={f"test/{name}": counts for name, counts in tested.found.confusion.items()},
    )
    _add(found, "val", sample_metrics(val.samples, decision.default))
    _add(found, "val/frame", val.frame_metrics())
    _add(found, "test", tested.found)
    _add(found, "test/frame", test.frame_metrics())
    return replace(
        tested,
        predictions=pd.concat([val.samples, test.samples], ignore_index=True),
        clips=join_clips([val.clips, test.clips]),
        frames=None,
        found=found,
    )


def _add(found: Evaluation, prefix: str, more: Metrics) -> None:
    found.values |= {f"{prefix}/{name}": value for name, value in more.values.items()}
    found.unavailable |= {f"{prefix}/{name}": reason for name, reason in more.unavailable.items()}


@dataclass(frozen=True)
class Target:
    """What to score.

    Attributes:
        config: The run's, on this data.
        split: Which part.
        manifest: Its samples.
        changes: What was typed.
    """

    config: RunConfig
    split: str
    manifest: Manifest
    changes: Changes


@dataclass(frozen=True)
class Look:
    """What one detector sees of the samples: its crops, and the clips that they are read as."""

    member: Trained
    store: CropStore
    source: ClipSet


@dataclass
class EvaluatedData(Evaluated):
    """A trained run's evaluation on one data set.

    Attributes:
        name: Where it is kept: the data set, and the split where that is not test.
        target: What was scored; ``predictions`` has calibrated probabilities and the manifest's columns too.
        looks: Of the detector, or of each that is averaged.
        breakdown: Metrics by the values of columns; ``macro`` is the ROC-AUC's mean over methods.
        coverage: Samples by what became of them, as numbers; ``failed`` names those without a score.
        overlap: How the data relates to the run's own.
        warnings: Why the numbers may mean less than they look.
        curves: Of robustness, by the kind of corruption, where any were computed.
    """

    name: str
    target: Target
    looks: Sequence[Look]
    breakdown: pd.DataFrame
    macro: float | None
    coverage: dict[str, float]
    overlap: Overlap
    failed: pd.DataFrame
    warnings: list[str]
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def store(self) -> CropStore:
        """The crops, of several detectors those of the first."""
        return self.looks[0].store

    @property
    def covered(self) -> bool:
        """Whether enough samples have a score."""
        return self.coverage["share"] >= self.target.config.evaluation.min_coverage


def open_target(record: RunRecord, changes: Changes, split: str, console: Console) -> Target:
    """The samples of one split of the data set that was typed, or of all of it.

    The run's own data set has the splits it was trained with; of another one without a training part all is test.

    Raises:
        UserError: No such split, or nothing in it.
    """
    if split not in (*SPLITS, ALL):
        raise UserError(f"split={split!r} is not a split", nearest(split, (*SPLITS, ALL)))
    config = with_changes(record, changes)
    manifest = read_dataset(config.dataset, config.cache, config.demo, trains=False)
    if record.has(files.MANIFEST) and same_samples(record.manifest("bytes"), manifest.table):
        makes_fakes = config.augment.self_blend > 0
        manifest = read_dataset(config.dataset, config.cache, config.demo, makes_fakes=makes_fakes)
    for note in manifest.notes:
        console.say(f"note: {note}")
    if split == ALL:
        return Target(config, split, manifest, changes)
    part = manifest.split(split)
    if part.empty:
        counts = manifest.table["split"].value_counts()
        others = ", ".join(f"{name} {counts[name]}" for name in SPLITS if name in counts)
        raise DataError(f"the {split} part of {config.dataset.name} is empty", f"it has {others}; split=all takes all")
    return Target(config, split, replace(manifest, table=part.reset_index(drop=True)), changes)


def evaluate_data(
    trained: Trained | Ensemble, target: Target, columns: Sequence[str], console: Console
) -> EvaluatedData:
    """Score samples and compute every number of them.

    Args:
        trained: The run.
        target: What to score.
        columns: Breakdowns beyond the usual ones.
        console: For progress.

    Raises:
        UserError: A column that is not there, or scores that are no numbers.
    """
    config, manifest, options = target.config, target.manifest, target.config.evaluation
    _check_columns(columns, manifest)
    looks = [_look(member, target, console) for member in trained.members]
    store = looks[0].store
    scored = average_scored([_score(look, target.split, console) for look in looks])
    try:
        measured = measure(scored, manifest, trained.decision, options)
    except ValueError as error:
        raise UserError(
            f"{config.dataset.name} cannot be evaluated: {error}", "the run's training may have diverged; name another"
        ) from error
    predictions = _with_columns(scored.samples, manifest, trained)
    wanted = list(dict.fromkeys([*usual_columns(predictions), *columns]))
    breakdown = break_down(predictions, wanted, trained.decision, options.level, measured.units)
    macro, coverage, found = macro_average(breakdown), _coverage(store, predictions), measured.found
    found.values |= {f"coverage/{name}": value for name, value in coverage.items()}
    _add(found, "frame", scored.frame_metrics())
    if macro is not None:
        found.values["macro_roc_auc"] = macro
    for row in breakdown.dropna(subset="roc_auc").to_dict("records"):
        found.values[f"by/{row['by']}/{row['group']}/roc_auc"] = float(row["roc_auc"])
    digests = store.samples["sha256"].reindex(manifest.table["sample_id"])
    overlap = find_overlap(trained.record, manifest.table, digests)
    # Whatever the split is called, it is what is tested on here.
    audited = audit(replace(manifest, table=manifest.table.assign(split="test")), store).warnings
    warnings = caveats(trained.record, overlap, found.values, options.min_coverage) + audited
    if not overlap.other and target.split in ("val", ALL):
        warnings.insert(0, "best epoch, threshold and calibration were chosen on validation, which is scored here")
    return EvaluatedData(
        **{**vars(measured), "predictions": predictions},
        name=_name(trained, target),
        target=target,
        looks=looks,
        breakdown=breakdown,
        macro=macro,
        coverage=coverage,
        overlap=overlap,
        failed=failures(store),
        warnings=warnings,
    )


def _look(member: Trained, target: Target, console: Console) -> Look:
    """Crops of the samples as the detector was trained on them."""
    config = with_changes(member.record, target.changes)
    # How many failed is told as coverage, which has a limit of its own.
    store = prepare(replace(config, dataset=replace(config.dataset, max_failed=1.0)), target.manifest, console)
    return Look(member, store, ClipSet(store, target.manifest.table))


def _score(look: Look, split: str, console: Console) -> Scored:
    with console.progress() as bar:
        scored = look.member.score(look.source, split, bar)
    look.member.rest()
    return scored


def _check_columns(columns: Sequence[str], manifest: Manifest) -> None:
    for column in columns:
        if column not in manifest.table.columns:
            known = sorted(set(manifest.table.columns) - {"path", "bytes", "sha256", "sample_id"})
            raise UserError(f"there is no column {column!r} to break down by", nearest(column, known))


def _with_columns(samples: pd.DataFrame, manifest: Manifest, trained: Trained | Ensemble) -> pd.DataFrame:
    """Predictions with calibrated probabilities, each sample's own split, and what else the manifest says of it."""
    table = manifest.table.reset_index(drop=True)
    extra = [name for name in table.columns if name not in samples.columns and name not in ("path", "bytes", "sha256")]
    calibrated = trained.decision.calibrated(samples["score"].to_numpy())
    return pd.concat([samples.assign(split=table["split"], calibrated=calibrated), table[extra]], axis=1)


def _coverage(store: CropStore, predictions: pd.DataFrame) -> dict[str, float]:
    counts = {str(name): float(count) for name, count in predictions["status"].value_counts().items()}
    frames = int(store.samples["frames"].sum())
    found = {"samples": float(len(predictions)), "scored": counts.pop("ok", 0.0)}
    found["failed"] = found["samples"] - found["scored"]
    found["share"] = found["scored"] / found["samples"]
    found["filled"] = float(store.samples["filled"].sum()) / frames if frames else 0.0
    return found | {f"status_{name}": count for name, count in sorted(counts.items())}


def _name(trained: Trained | Ensemble, target: Target) -> str:
    """The data set's name, with more of it where the run keeps other data's evaluation under the same name."""
    dataset = target.config.dataset
    names = [dataset.name]
    if not target.changes.has("dataset.name"):
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


def _taken(trained: Trained | Ensemble, place: str, target: Target) -> bool:
    """Whether an evaluation of other data lies there; one of the same data is done again in its place."""
    file = f"{FOLDER}/{place}/{files.METRICS}"
    if not trained.record.has(file):
        return False
    try:
        digest = json.loads(trained.record.file(file).read_text(encoding="utf-8"))["data"]["manifest"]
    except (ValueError, KeyError, TypeError, RecursionError):
        # Damaged, it may be of anything.
        return True
    return bool(digest != target.manifest.digest())


def robustness_curves(result: EvaluatedData, console: Console) -> dict[str, pd.DataFrame]:
    """A curve for each kind of corruption.

    Args:
        result: Of the untouched clips.
        console: Told what is left out, and how far it is.

    Returns:
        By kind: ``severity`` (mildest first), ``value`` (NaN where not defined), ``low``, ``high`` (DeLong over the
        units of the whole; NaN where they are too few); ``attrs["unit"]`` names the severity. Corruption over time is
        left out where samples are single frames.
    """
    frames = max(1, *(look.source.shape[0] for look in result.looks))
    if "roc_auc" not in result.found.values:
        console.warn(f"no robustness curves: the ROC-AUC has none to fall from ({result.found.unavailable['roc_auc']})")
        return {}
    curves = {}
    for name, kind in KINDS.items():
        if kind.over_time and frames == 1:
            console.say(f"note: {name} does nothing to single images and is left out")
            continue
        curves[name] = _curve(result, name, kind, console)
    return curves


def _curve(result: EvaluatedData, name: str, kind: Kind, console: Console) -> pd.DataFrame:
    options = result.target.config.evaluation
    rows = []
    for severity in kind.severities:
        tables = [
            _damaged(look, result.target, kind, severity, f"{name} {severity:g}", console) for look in result.looks
        ]
        rows.append({"severity": severity, **curve_point(average_samples(tables), options.level, result.units)})
    curve = pd.DataFrame(rows)
    curve.attrs["unit"] = kind.unit
    return curve


def _damaged(look: Look, target: Target, kind: Kind, severity: float, text: str, console: Console) -> pd.DataFrame:
    """A detector's predictions of damaged clips."""
    member, damaged = look.member, DamagedClips(look.source, kind, severity)
    member.detector.to(member.fabric.device)
    with console.progress() as bar:
        scores = score_clips(
            viewed(member.detector, member.config.evaluation),
            damaged,
            fabric=member.fabric,
            batch_size=member.batch_size,
            progress=bar,
            text=text,
        )
    member.rest()
    return sample_table(damaged, scores, target.split, target.config.evaluation)


def curve_point(table: pd.DataFrame, level: float, units: Units) -> dict[str, float]:
    """ROC-AUC of predictions and its interval over the units of the whole, as ``value``, ``low`` and ``high``."""
    scored = (table["status"] == "ok").to_numpy()
    counted = table[scored]
    labels, scores = counted["label"].to_numpy(np.int64), counted["score"].to_numpy(np.float64)
    low, high, _ = auc_bounds(labels, scores, units.of(scored), level)
    return {"value": sample_metrics(counted).values["roc_auc"], "low": low, "high": high}
