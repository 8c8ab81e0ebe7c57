"""A run's and an evaluation's files, figures and model, kept in its folder and in MLflow."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
from filelock import FileLock, Timeout

from deepfake.config import RunConfig
from deepfake.metrics import Interval, class_counts
from deepfake.runs.build import FAILURES, Data, failures
from deepfake.runs.console import Console
from deepfake.runs.context import RunContext
from deepfake.runs.evaluate import FOLDER, Evaluated, Judgement, judge
from deepfake.runs.load import Trained
from deepfake.tracking import run_folder as files
from deepfake.tracking.figures import EvaluationNumbers, draw_evaluation, draw_run
from deepfake.tracking.run import RunLog, TrackedRun, reopen
from deepfake.tracking.run_folder import UNFINISHED, RunFolder, refuse_links, write_json, write_text
from deepfake.training.bootstrap import PLACES, precision_band, roc_band

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.data.manifest import Manifest
    from deepfake.models.detector import Detector
    from deepfake.training.trainer import FitResult


_LOCK = ".lock"  # hidden, so that no upload takes it


@contextmanager
def scratch_folder(verb: str) -> Iterator[Path]:
    """A folder in the place for temporary files; those that killed processes of this user left there go first.

    Args:
        verb: The command it is for. Its name says that and whose it is, and a lock in it that they are at it.
    """
    begins = f"deepfake-{verb}-{socket.gethostname()}-"
    _remove_leftovers(Path(tempfile.gettempdir()), begins)
    # Named before it is made: a signal may come in between.
    folder = Path(tempfile.gettempdir()) / f"{begins}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(mode=0o700)
        with FileLock(folder / _LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(place: Path, begins: str) -> None:
    for folder in place.glob(f"{glob.escape(begins)}*-*"):
        process = folder.name.removeprefix(begins).partition("-")[0]
        with suppress(OSError):  # somebody else removes it, or it is somebody else's
            own = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
            if own and process.isdigit() and not psutil.pid_exists(int(process)) and _is_free(folder / _LOCK):
                shutil.rmtree(folder)


def _is_free(lock: Path) -> bool:
    """Whether nobody holds it: the number of a process in another container says nothing here."""
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


#: In a run's folder: what the audit of its data set found.
AUDIT = "audit.txt"


def keep_inputs(
    config: RunConfig,
    context: RunContext,
    folder: RunFolder,
    data: Data,
    log: RunLog,
    parameters: dict[str, Any],
    device: str,
    detector: Detector,
) -> None:
    """What the run is made of: its config, samples, what is wrong with them, and where and from what it ran."""
    from deepfake.data.prepare import known_digests

    folder.write_config(context.composed, context.resolved, context.overrides)
    folder.write_manifest(known_digests(data.manifest, data.store.records))
    failed = failures(data.store)
    if not failed.empty:
        write_text(folder.path / FAILURES, failed.to_csv())
    write_text(folder.path / AUDIT, data.audit.text())
    write_json(folder.path / "audit.json", data.audit.as_dict())
    log.tags({"audit.warnings": len(data.audit.warnings), **_numbered("audit.warning", data.audit.warnings)})
    folder.write_provenance(provenance(config, data.manifest, data.store.key, context.choices, device, detector))
    log.params(parameters)
    log.dataset(data.manifest)


def _numbered(name: str, texts: list[str]) -> dict[str, object]:
    return {f"{name}.{number}": text for number, text in enumerate(texts, start=1)}


def provenance(
    config: RunConfig, manifest: Manifest, crops: str, choices: dict[str, str], device: str, detector: Detector | None
) -> dict[str, object]:
    """Where a run's numbers come from; ``detector`` is as it was before its first step."""
    import torch

    from deepfake.tracking.provenance import collect
    from deepfake.training.checkpoint import weights_digest

    parts = {} if detector is None else {"backbone": detector.backbone, "head": detector.head}
    return collect(
        seeds={"seed": config.seed, "split_seed": config.dataset.split_seed},
        data={
            "manifest": manifest.digest(),
            "crops": crops,
            "roots": {name: str(root) for name, root in manifest.roots.items()},
            "choices": choices,
        },
        device=device,
        weights={name: weights_digest(part) for name, part in parts.items()},
        threads=torch.get_num_threads(),
    )


def score_and_keep(
    config: RunConfig,
    data: Data,
    detector: Detector,
    fabric: Fabric,
    folder: RunFolder,
    log: RunLog,
    result: FitResult,
    console: Console,
) -> dict[str, float]:
    """Validation and, once, test are scored with the best epoch's weights."""
    from deepfake.training.profiling import latency_ms

    judgement = judge(config, data, detector, fabric, result.batch_size, result.workers)
    judgement.metrics |= {
        "best_epoch": float(result.best_epoch + 1),
        "epochs_run": float(result.epochs_run),
        "batch_size": float(result.batch_size),
        "train_seconds": result.seconds,
        "parameters": float(sum(p.numel() for p in detector.parameters())),
        "latency_ms": latency_ms(detector, int(max(data.splits["train"].lengths)), config.dataset.size, fabric),
    }
    if fabric.is_global_zero:
        _keep_outputs(folder, log, result, judgement, config)
        for name in ("val/roc_auc", "test/roc_auc"):
            if name in judgement.unavailable:
                console.warn(f"{name} is not available: {judgement.unavailable[name]}")
        if reason := judgement.decision.unavailable.get("threshold"):
            console.warn(f"no threshold was fitted, {config.trainer.threshold:g} stands: {reason}")
    return judgement.metrics


def _keep_outputs(folder: RunFolder, log: RunLog, result: FitResult, judgement: Judgement, config: RunConfig) -> None:

    metrics, unavailable, predictions = judgement.metrics, judgement.unavailable, judgement.predictions
    folder.write_predictions(predictions)
    folder.write_clips(judgement.clips)
    folder.write_calibration(judgement.decision.to_dict())
    folder.write_history(result.history)
    folder.write_metrics({"metrics": metrics, "unavailable": unavailable, **judgement.notes, "notes": result.notes})
    draw_run(
        folder.figures,
        history=result.history,
        predictions=predictions[predictions["split"] == "test"],
        monitor=config.trainer.monitor,
        best_epoch=result.best_epoch + 1,
        threshold=config.trainer.threshold,
    )
    log.summary(metrics)
    if unavailable:
        log.tags({f"unavailable.{name}": reason for name, reason in unavailable.items()})
    log.folder(folder.path, skip=UNFINISHED)


def log_model(log: TrackedRun, config: RunConfig, folder: RunFolder) -> None:
    """Log the best weights of a run as a model of it."""
    from deepfake.tracking.model import DetectorSpec

    spec = DetectorSpec(
        config.backbone, config.head, config.dataset.frames, config.dataset.size, config.trainer.threshold
    )
    log.model(folder.best_weights, spec.to_json())


_WRONG = 18  # crops on the contact sheet
_BARS = 40  # of a column with more values the largest groups are drawn; the table has all


def file_evaluation(
    trained: Trained, result: Evaluated, curves: Mapping[str, pd.DataFrame], overrides: Sequence[str]
) -> str:
    """Write all of it into the run's folder and into MLflow, as far as there is either; says where.

    Args:
        trained: The run.
        result: What came out.
        curves: Robustness curves, where any were computed.
        overrides: What was typed.
    """
    name = f"{FOLDER}/{result.name}"
    log: RunLog = RunLog() if trained.record.run_id is None else reopen(trained.store, trained.record.run_id)
    with _place(trained, name) as folder:
        _write_tables(folder, result, curves)
        write_json(folder / files.METRICS, _told(trained, result, overrides))
        draw_evaluation(folder / "figures", _drawn(trained, result, curves))
        log.folder(folder, into=name, skip=files.UNFINISHED)
    metrics = result.metrics() | {
        f"robustness/{kind}/{row['severity']}/roc_auc": row["value"]
        for kind, curve in curves.items()
        for row in curve.dropna(subset="value").to_dict("records")
    }
    log.summary({f"{name}/{key}": value for key, value in metrics.items()})
    log.tags({f"{name}/data": _described(result), f"{name}/coverage": "enough" if result.covered else "too low"})
    log.dataset(result.target.manifest, context="evaluation")
    kept = run_folder(trained)
    return str(kept / name) if kept is not None else f"the artifacts of run {trained.record}, below {name}"


def run_folder(trained: Trained) -> Path | None:
    """The run's own folder, where it is still there.

    Raises:
        UserError: No store of ours knows the run, and a link in its folder leads out of it.
    """
    tag = trained.record.tags.get("run_dir")
    places = [Path(tag)] if tag else list(trained.record.places[:1])
    own = next((place for place in places if (place / files.RESOLVED).is_file()), None)
    if own is not None and trained.record.run_id is None:
        refuse_links(own)
    return own


@contextmanager
def _place(trained: Trained, name: str) -> Iterator[Path]:
    """The folder to write to; one that is thrown away where only MLflow still has the run."""
    own = run_folder(trained)
    if own is not None:
        place = own / name
        place.mkdir(parents=True, exist_ok=True)
        yield place
        return
    with scratch_folder("evaluate") as place:
        yield place


def _write_tables(folder: Path, result: Evaluated, curves: Mapping[str, pd.DataFrame]) -> None:
    predictions = result.predictions.assign(groups=result.predictions["groups"].map(list))
    predictions.to_parquet(folder / files.PREDICTIONS, index=False)
    result.scored.clips.to_parquet(folder / files.CLIPS, index=False)
    if result.scored.frames is not None:
        result.scored.frames.to_parquet(folder / "frames.parquet", index=False)
    write_text(folder / "breakdown.csv", result.groups.to_csv(index=False))
    if not result.failed.empty:
        write_text(folder / FAILURES, result.failed.to_csv())
    if curves:
        joined = pd.concat([curve.assign(kind=kind) for kind, curve in curves.items()], ignore_index=True)
        write_text(folder / "robustness.csv", joined.to_csv(index=False))


def _told(trained: Trained, result: Evaluated, overrides: Sequence[str]) -> dict[str, Any]:
    found, config = result.found, result.target.config
    frames = result.scored.frame_metrics()
    return {
        "data": {
            "dataset": config.dataset.name,
            "split": result.target.split,
            "roots": {name: str(root) for name, root in result.target.manifest.roots.items()},
            "manifest": result.target.manifest.digest(),
            "crops": result.store.key,
            "same_as_training": not result.kin.other,
        },
        "overrides": list(overrides),
        "pooling": trained.decision.pooling,
        "decision": trained.decision.to_dict(),
        "metrics": result.metrics(),
        "unavailable": found.unavailable | {f"frame/{name}": why for name, why in frames.unavailable.items()},
        "intervals": {"level": config.evaluation.level, **found.intervals},
        "confusion": found.confusion,
        "coverage": {**result.coverage, "min_coverage": config.evaluation.min_coverage, "enough": result.covered},
        "breakdown": result.groups.to_dict("records"),
        "warnings": result.warnings,
    }


def _described(result: Evaluated) -> str:
    counts = class_counts(result.target.manifest.table["label"])
    return f"{result.target.config.dataset.name}, {result.target.split}: {counts['real']} real + {counts['fake']} fake"


def _drawn(trained: Trained, result: Evaluated, curves: Mapping[str, pd.DataFrame]) -> EvaluationNumbers:
    from deepfake.tracking.figures.evaluation import most_wrong
    from deepfake.tracking.figures.scores import Band

    values, options = result.found.values, result.target.config.evaluation
    table = result.predictions
    ok = (table["status"] == "ok").to_numpy()
    labels, scores = table["label"].to_numpy(np.int64)[ok], table["score"].to_numpy(np.float64)[ok]
    given = labels, scores, result.units.codes[ok], options
    bands = [
        None if ends is None else Band(PLACES, *ends, level=options.level)
        for ends in (roc_band(*given), precision_band(*given))
    ]

    def interval(name: str) -> Interval | None:
        ends = [values.get(key) for key in (name, f"{name}_low", f"{name}_high")]
        return None if None in ends else Interval(*ends)  # type: ignore[arg-type]

    wrong = most_wrong(table, _WRONG, trained.decision.applied_threshold)
    crops = [result.store.clip(name, 0)[0][0] for name in wrong["sample_id"]]
    cuts = {"confusion_matrix": trained.decision.default}
    if trained.decision.threshold is not None:
        cuts["confusion_matrix_fitted"] = trained.decision.threshold
    columns = {str(column): own for column, own in result.groups.groupby("by", sort=False)}
    return EvaluationNumbers(
        predictions=table,
        thresholds=cuts,
        threshold=trained.decision.applied_threshold,
        auc=interval("roc_auc"),
        average=interval("average_precision"),
        roc_band=bands[0],
        precision_band=bands[1],
        ece=(values.get("ece"), values.get("ece_calibrated")),
        breakdowns={column: _bars(own) for column, own in columns.items()},
        macro=result.macro,
        wrong=(wrong, crops),
        robustness=curves,
    )


def _bars(groups: pd.DataFrame) -> pd.DataFrame:
    names = {"roc_auc": "value", "roc_auc_low": "low", "roc_auc_high": "high"}
    largest = groups.sort_values("n", ascending=False, kind="stable").head(_BARS).sort_index()
    return largest[["group", "n", *names]].rename(columns=names).reset_index(drop=True)
