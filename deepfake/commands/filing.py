"""An evaluation to where it is kept: tables, numbers and figures beside the run, and the same in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepfake.commands.data import FAILURES
from deepfake.commands.evaluating import FOLDER, Evaluated
from deepfake.commands.scratch import scratch_folder
from deepfake.commands.trained import Trained
from deepfake.tracking import folder as files
from deepfake.tracking.figures import Scored, draw_evaluation
from deepfake.tracking.folder import write_json, write_text
from deepfake.tracking.run import RunLog, reopen
from deepfake.training.bands import PLACES, precision_band, roc_band

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
    """The run's own folder, where it is still there."""
    tag = trained.record.tags.get("run_dir")
    places = [Path(tag)] if tag else list(trained.record.places[:1])
    return next((place for place in places if (place / files.RESOLVED).is_file()), None)


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
    table = result.target.manifest.table
    fake = int((table["label"] == 1).sum())
    return f"{result.target.config.dataset.name}, {result.target.split}: {len(table) - fake} real + {fake} fake"


def _drawn(trained: Trained, result: Evaluated, curves: Mapping[str, pd.DataFrame]) -> Scored:
    from deepfake.tracking.figures.evaluation import most_wrong
    from deepfake.tracking.figures.scores import Band, Interval

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

    wrong = most_wrong(table, _WRONG, trained.decision.cut)
    crops = [result.store.clip(name, 0)[0][0] for name in wrong["sample_id"]]
    cuts = {"confusion_matrix": trained.decision.default}
    if trained.decision.threshold is not None:
        cuts["confusion_matrix_fitted"] = trained.decision.threshold
    columns = {str(column): own for column, own in result.groups.groupby("by", sort=False)}
    return Scored(
        predictions=table,
        thresholds=cuts,
        cut=trained.decision.cut,
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
