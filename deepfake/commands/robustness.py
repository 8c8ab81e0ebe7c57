"""A run's ROC-AUC against damage of each kind and severity, on clips that are prepared already. Keeps nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepfake.commands.console import Console
from deepfake.commands.evaluating import Evaluated
from deepfake.commands.trained import Trained
from deepfake.data.damage import KINDS, DamagedClips, Kind
from deepfake.metrics import sample_metrics
from deepfake.training.delong import auc_interval
from deepfake.training.evaluation import Units
from deepfake.training.intervals import too_few
from deepfake.training.score import sample_table, score_clips


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
    counted, codes = table[scored], units.codes[scored]
    labels, scores = counted["label"].to_numpy(np.int64), counted["score"].to_numpy(np.float64)
    found = sample_metrics(counted).values
    numbers = {"value": found["roc_auc"], "low": float("nan"), "high": float("nan")}
    if not too_few(labels, codes):
        interval = auc_interval(labels, scores, level, codes)
        numbers |= {"low": interval.low, "high": interval.high}
    return numbers
