"""A run's and an evaluation's files, figures and model, kept in its folder and in MLflow."""

from __future__ import annotations

import glob
import json
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
from filelock import FileLock

from deepfake.data.prepare import cut_settings
from deepfake.errors import first_line
from deepfake.metrics import Interval, class_counts
from deepfake.presence import at_work, is_free
from deepfake.runs.build import FAILURES, Run, failures
from deepfake.runs.card import open_crops, run_card
from deepfake.runs.console import Console
from deepfake.runs.evaluate import FOLDER, Evaluated, EvaluatedData
from deepfake.runs.load import Ensemble, Trained
from deepfake.runs.reading_config import SECONDS, reading_config
from deepfake.tracking import run_folder as files
from deepfake.tracking.figures import EvaluationNumbers, draw_evaluation, draw_run
from deepfake.tracking.figures.selection import most_wrong
from deepfake.tracking.logger import counts
from deepfake.tracking.notes import experiment_note, run_note
from deepfake.tracking.page import write_page
from deepfake.tracking.run import RunLog, TrackedRun, reopen
from deepfake.tracking.run_folder import UNFINISHED, RunFolder, refuse_links, write_json, write_text
from deepfake.tracking.weights import say_let_go
from deepfake.training.bootstrap import PLACES, precision_band, roc_band
from deepfake.training.decision import load_decision

if TYPE_CHECKING:
    from deepfake.data.manifest import Manifest
    from deepfake.models.detector import Detector
    from deepfake.training.trainer import FitResult

#: Of what is computed of single frames, what is logged.
_OF_FRAMES = tuple(f"{split}/frame/roc_auc" for split in ("val", "test"))
_LOCK = ".lock"  # hidden, so that no upload takes it
_WRONG = 18  # crops on the contact sheet
_BARS = 40  # of a column with more values the largest groups are drawn; the table has all


def keep_inputs(run: Run, parameters: dict[str, Any]) -> None:
    """What a run is made of: its config, samples, what is wrong with them, and where and from what it ran.

    Args:
        run: Before its first step.
        parameters: The resolved config with dotted keys, as it is logged.
    """
    from deepfake.data.prepare import known_digests

    folder, data, context = run.folder, run.data, run.context
    folder.write_config(context.composed, context.resolved, context.overrides)
    folder.write_manifest(known_digests(data.manifest, data.store.records))
    failed = failures(data.store)
    if not failed.empty:
        write_text(folder.path / FAILURES, failed.to_csv())
    keep_audit(run)
    run.log.tags({"audit.warnings": len(data.audit.warnings)})
    device = str(run.fabric.device)
    seeds, crops = run.config.seeds, data.store.key
    folder.write_provenance(provenance(seeds, data.manifest, crops, context.choices, device, run.detector))
    own = {key: value for key, value in parameters.items() if not key.endswith("_target_")}
    # A choice of a group says what its _target_ does, in the words that were typed.
    run.log.params({**context.swept, **own, **context.choices})
    run.log.dataset(data.manifest)
    run.log.note(run_note(_reference(run), {}, data.audit.warnings))
    if context.number in (None, 0):
        # A sweep's jobs mostly share their data.
        name = run.config.dataset.name
        run.log.experiment_note(experiment_note(name, counts(data.manifest.table), data.audit.warnings))


def keep_audit(run: Run) -> None:
    """What is wrong with a run's data, and how far it is solved, in its folder."""
    write_text(run.folder.path / files.AUDIT_TEXT, run.data.audit.text())
    write_json(run.folder.path / files.AUDIT, run.data.audit.as_dict())


def provenance(
    seeds: Mapping[str, int],
    manifest: Manifest,
    crops: str,
    choices: Mapping[str, str],
    device: str,
    detector: Detector | None,
) -> dict[str, object]:
    """Where a run's numbers come from; ``detector`` is as it was before its first step, ``crops`` the store's key."""
    import torch

    from deepfake.tracking.provenance import collect
    from deepfake.training.checkpoint import weights_digest

    parts = {} if detector is None else {"backbone": detector.backbone, "head": detector.head}
    return collect(
        seeds=seeds,
        data={
            "manifest": manifest.digest(),
            "crops": crops,
            "roots": {name: str(root) for name, root in manifest.roots.items()},
            "choices": choices,
        },
        device=device,
        weights={name: weights_digest(part) for name, part in parts.items()},
        threads=torch.get_num_threads(),
        processes=_processes(),
    )


def _reference(run: Run) -> str:
    """What commands take for a run, whatever others are called."""
    return run.log.id or str(run.folder.path)


def _processes() -> int:
    """How many train together."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def keep_results(run: Run, result: FitResult, evaluated: Evaluated) -> None:
    """What came out of a run; warns where there is no ROC-AUC or no threshold."""
    folder, found, options = run.folder, evaluated.found, run.config.trainer
    folder.write_calibration(evaluated.decision.to_dict())
    folder.write_history(result.history)
    draw_run(
        folder.figures,
        history=result.history,
        predictions=evaluated.predictions[evaluated.predictions["split"] == "test"],
        monitor=options.monitor,
        best_epoch=result.best_epoch + 1,
        threshold=options.threshold,
    )
    run.log.note(run_note(_reference(run), found.values, run.data.audit.warnings))
    keeps = run.config.tracking.keep_weights != "none"
    keep_numbers(folder, evaluated, result.notes, run.log, UNFINISHED if keeps else (*UNFINISHED, files.WEIGHTS))
    for name in ("val/roc_auc", "test/roc_auc"):
        if name in found.unavailable:
            run.console.warn(f"{name} is not available: {found.unavailable[name]}")
    if reason := evaluated.decision.unavailable.get("threshold"):
        run.console.warn(f"no threshold was fitted, {options.threshold:g} stands: {reason}")


def keep_numbers(
    folder: RunFolder, evaluated: Evaluated, notes: Sequence[str], log: RunLog, skip: Sequence[str] = UNFINISHED
) -> None:
    """A run's predictions and numbers, in its folder and, with all that lies there but what is skipped, in MLflow."""
    found = evaluated.found
    numbers = {
        "metrics": found.values,
        "unavailable": found.unavailable,
        "intervals": found.intervals,
        "confusion": found.confusion,
        "pooling": evaluated.decision.pooling,
        "notes": list(notes),
    }
    # Its metrics.json has all of single frames' too.
    log.summary({name: value for name, value in found.values.items() if "/frame/" not in name or name in _OF_FRAMES})
    if found.unavailable:
        log.tags({f"unavailable.{name}": reason for name, reason in found.unavailable.items()})
    _keep(folder, evaluated, numbers, log, skip=skip)


def let_go(folder: RunFolder, log: RunLog, why: str) -> None:
    """Delete the weights of a run that has ended, in its folder alone; what asks for them is told why."""
    log.tags({files.LET_GO_TAG: why})
    say_let_go(folder.path, why, done=False)
    shutil.rmtree(folder.best_weights.parent, ignore_errors=True)
    log.files([say_let_go(folder.path, why)])


def log_model(run: Run) -> None:
    """Log the best weights of a run as a model of it, where that is asked for and they are kept."""
    config = run.config
    kept = config.tracking.keep_weights != "none"
    if isinstance(run.log, TrackedRun) and config.tracking.log_model and kept:
        from deepfake.tracking.model import DetectorSpec
        from deepfake.training.checkpoint import base_digest, save_rest, save_weights

        data, threshold = config.dataset, config.trainer.threshold
        spec = DetectorSpec(config.backbone, config.head, data.frames, data.size, threshold, _reading(run))
        digest = base_digest(run.folder.best_weights)
        # A model of MLflow's goes where the pretrained weights may not be.
        if digest is None:
            run.log.model(run.folder.best_weights, spec.to_json())
        elif run.log.shares_disk:
            base = config.cache / "backbones" / f"{digest}.safetensors"
            with at_work(base.parent):
                if not base.is_file():
                    save_rest(run.detector, run.folder.best_weights, base)
                run.log.model(run.folder.best_weights, spec.to_json(), base=base)
        else:
            save_weights(run.detector, run.folder.whole_weights, {})
            if run.log.model(run.folder.whole_weights, spec.to_json()) is not None:
                run.folder.whole_weights.unlink()


def _reading(run: Run) -> dict[str, Any] | None:
    """What a model takes to answer about files; None where the face detector's weights are a file of the machine's."""
    config, folder = run.config, run.folder.path
    settings = cut_settings(config.dataset, config.head.temporal, config.cache)
    if settings.face_model is not None or not (folder / files.CALIBRATION).is_file():
        return None
    decision = load_decision(json.loads((folder / files.CALIBRATION).read_text(encoding="utf-8")))
    seconds = min(SECONDS, config.dataset.file_timeout)
    name = run.context.name or config.name
    told = reading_config(config, (name, run.log.id or None), decision, settings, seconds, run.detector.backbone)
    domain = folder / files.DOMAIN
    return {**told, "domain": json.loads(domain.read_text(encoding="utf-8"))} if domain.is_file() else told


def file_evaluation(trained: Trained | Ensemble, result: EvaluatedData) -> str:
    """Write an evaluation into the run's folder and into MLflow, as far as there is either; says where."""
    name = f"{FOLDER}/{result.name}"
    log: RunLog = RunLog() if trained.record.run_id is None else reopen(trained.store, trained.record.run_id)
    with _folder_for(trained, name) as folder:
        write_text(folder.path / "breakdown.csv", result.breakdown.to_csv(index=False))
        if not result.failed.empty:
            write_text(folder.path / FAILURES, result.failed.to_csv())
        if result.curves:
            joined = pd.concat([curve.assign(kind=kind) for kind, curve in result.curves.items()], ignore_index=True)
            write_text(folder.path / "robustness.csv", joined.to_csv(index=False))
        draw_evaluation(folder.figures, _figure_numbers(result))
        _keep(folder, result, _numbers(result), log, into=name)
    metrics = result.found.values | {
        f"robustness/{kind}/{row['severity']}/roc_auc": row["value"]
        for kind, curve in result.curves.items()
        for row in curve.dropna(subset="value").to_dict("records")
    }
    log.summary({f"{name}/{key}": value for key, value in metrics.items()})
    counts, target = class_counts(result.target.manifest.table["label"]), result.target
    data = f"{target.config.dataset.name}, {target.split}: {counts['real']} real + {counts['fake']} fake"
    log.tags({f"{name}/data": data, f"{name}/coverage": "enough" if result.covered else "too low"})
    log.dataset(target.manifest, context="evaluation")
    path = run_folder(trained)
    return str(path / name) if path is not None else f"the artifacts of run {trained.record}, below {name}"


def refresh_card(trained: Trained | Ensemble, console: Console) -> None:
    """Write a run's card anew, with what was found since; a failure to do so is told and ends nothing."""
    record, place = trained.record, run_folder(trained)
    try:
        whole = run_card(record, open_crops(record, trained.config.cache))
        with nullcontext(place) if place is not None else scratch_folder("card") as folder:
            path = write_page(folder, whole)
            if record.run_id is not None:
                reopen(trained.store, record.run_id).files([path])
    except Exception as error:
        console.warn(f"the run's report card could not be written: {first_line(error)}")


def _keep(
    folder: RunFolder,
    evaluated: Evaluated,
    numbers: Mapping[str, object],
    log: RunLog,
    into: str = "",
    skip: Sequence[str] = UNFINISHED,
) -> None:
    """An evaluation's tables and numbers into a folder, and all that lies there among a run's artifacts."""
    predictions = evaluated.predictions
    if "groups" in predictions:
        predictions = predictions.assign(groups=predictions["groups"].map(list))
    folder.write_predictions(predictions)
    folder.write_clips(evaluated.clips)
    if evaluated.frames is not None:
        folder.write_frames(evaluated.frames)
    # Last: where there are numbers, there is the rest.
    folder.write_metrics(numbers)
    log.folder(folder.path, into=into, skip=skip)


def run_folder(trained: Trained | Ensemble) -> Path | None:
    """The run's own folder, where it is still there.

    Raises:
        UserError: No store of ours knows the run, and a link in its folder leads out of it.
    """
    tag = trained.record.tags.get("run_dir")
    places = [Path(tag)] if tag else list(trained.record.places[:1])
    path = next((place for place in places if (place / files.RESOLVED).is_file()), None)
    if path is not None and trained.record.run_id is None:
        refuse_links(path)
    return path


@contextmanager
def _folder_for(trained: Trained | Ensemble, name: str) -> Iterator[RunFolder]:
    """The folder to write to; one that is thrown away where only MLflow still has the run."""
    path = run_folder(trained)
    if path is not None:
        yield RunFolder(path / name)
        return
    with scratch_folder("evaluate") as scratch:
        yield RunFolder(scratch)


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
            # The number of a process in another container says nothing here; its lock does.
            users = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
            if users and process.isdigit() and not psutil.pid_exists(int(process)) and is_free(folder / _LOCK):
                shutil.rmtree(folder)


def _numbers(result: EvaluatedData) -> dict[str, object]:
    """What an evaluation's ``metrics.json`` holds."""
    found, target, options = result.found, result.target, result.target.config.evaluation
    return {
        "data": {
            "dataset": target.config.dataset.name,
            "split": target.split,
            "roots": {name: str(root) for name, root in target.manifest.roots.items()},
            "manifest": target.manifest.digest(),
            "crops": result.store.key,
            "same_as_training": not result.overlap.other,
        },
        "overrides": target.changes.texts,
        "pooling": result.decision.pooling,
        "decision": result.decision.to_dict(),
        "metrics": found.values,
        "unavailable": found.unavailable,
        "intervals": {"level": options.level, **found.intervals},
        "confusion": found.confusion,
        "coverage": {**result.coverage, "min_coverage": options.min_coverage, "enough": result.covered},
        "breakdown": result.breakdown.to_dict("records"),
        "warnings": result.warnings,
    }


def _figure_numbers(result: EvaluatedData) -> EvaluationNumbers:
    from deepfake.tracking.figures.scores import Band

    values, options, decision = result.found.values, result.target.config.evaluation, result.decision
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

    wrong = most_wrong(table, _WRONG, decision.applied_threshold)
    crops = [result.store.clip(name, 0)[0][0] for name in wrong["sample_id"]]
    thresholds = {"confusion_matrix": decision.default}
    if decision.threshold is not None:
        thresholds["confusion_matrix_fitted"] = decision.threshold
    parts = result.breakdown.groupby("by", sort=False)
    return EvaluationNumbers(
        predictions=table,
        thresholds=thresholds,
        threshold=decision.applied_threshold,
        auc=interval("roc_auc"),
        average=interval("average_precision"),
        roc_band=bands[0],
        precision_band=bands[1],
        ece=(values.get("ece"), values.get("ece_calibrated")),
        breakdowns={str(column): _bars(groups) for column, groups in parts},
        macro=result.macro,
        wrong=(wrong, crops),
        robustness=result.curves,
    )


def _bars(groups: pd.DataFrame) -> pd.DataFrame:
    names = {"roc_auc": "value", "roc_auc_low": "low", "roc_auc_high": "high"}
    largest = groups.sort_values("n", ascending=False, kind="stable").head(_BARS).sort_index()
    return largest[["group", "n", *names]].rename(columns=names).reset_index(drop=True)
