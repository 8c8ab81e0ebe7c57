"""All numbers of 10,000 predictions with 1,000 bootstraps over groups, against resampling tables with scikit-learn.

    python -m benchmarks.evaluate

Needs no data, no model and no network; takes about ten seconds. One thread, CPU seconds. Resampling tables is timed on
a few draws, as its thousand would take half a minute each round.
"""

from __future__ import annotations

import os

# Read when NumPy starts its threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.measure import in_turns, machine, report, row
from deepfake.metrics import sample_metrics
from deepfake.training.bootstrap import group_weights, precision_band, roc_band
from deepfake.training.evaluation import break_down, evaluate_predictions, resampling_units
from deepfake.training.fitting import fit_decision
from deepfake.training.options import EvaluationOptions

SAMPLES, GROUPS, DRAWS, ROUNDS = 10_000, 1_000, 1_000, 3
SLOW_DRAWS = 5
LIMIT = 5.0


def make_predictions() -> pd.DataFrame:
    """Scores that overlap, ten samples a group, four methods."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, SAMPLES)
    logits = 1.5 * (2 * labels - 1) + 1.5 * generator.standard_normal(SAMPLES)
    methods = np.array(["Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"])[generator.integers(0, 4, SAMPLES)]
    return pd.DataFrame(
        {
            "label": labels,
            "score": 1 / (1 + np.exp(-logits)),
            "status": "ok",
            "method": np.where(labels == 1, methods, "real"),
            "groups": [(f"person/{i}",) for i in generator.integers(0, GROUPS, SAMPLES)],
        }
    )


def ours(predictions: pd.DataFrame, options: EvaluationOptions) -> Callable[[], None]:
    """What an evaluation computes: metrics, threshold, calibration, intervals over groups, DeLong."""

    def run() -> None:
        decision = fit_decision(predictions, options, 0.5, "validation")
        evaluate_predictions(predictions, decision, options, resampling_units(predictions["groups"]))

    return run


def drawn(predictions: pd.DataFrame, options: EvaluationOptions) -> Callable[[], None]:
    """What is drawn and told beside: bands about both curves, and each method."""
    labels, scores = predictions["label"].to_numpy(), predictions["score"].to_numpy()

    def run() -> None:
        codes = resampling_units(predictions["groups"]).codes
        roc_band(labels, scores, codes, options)
        precision_band(labels, scores, codes, options)
        break_down(predictions, ["method"], fit_decision(predictions, options, 0.5, "validation"), options.level)

    return run


def tables(predictions: pd.DataFrame) -> Callable[[], None]:
    """The same metrics by making each resampled table and handing it to scikit-learn."""
    codes = resampling_units(predictions["groups"]).codes
    kept = predictions[["label", "score"]]

    def run() -> None:
        weights = next(iter(group_weights(codes, SLOW_DRAWS, 0)))
        for counts in weights:
            sample_metrics(kept.loc[np.repeat(kept.index, counts)])

    return run


def main() -> None:
    """Measure, print, keep."""
    predictions, options = make_predictions(), EvaluationOptions(resamples=DRAWS)
    ways = {
        "ours": ours(predictions, options),
        "drawn": drawn(predictions, options),
        "tables": tables(predictions),
    }
    for warm_up in (ways["tables"], ways["drawn"]):
        warm_up()
    seconds = in_turns(ways, ROUNDS)
    slow = seconds["tables"] * DRAWS / SLOW_DRAWS
    rows = [
        row(
            f"all metrics, {DRAWS} group bootstraps and DeLong / {LIMIT:g} s",
            seconds["ours"] / LIMIT,
            "<= 1",
            seconds=seconds["ours"],
        ),
        row(
            "resampled tables and scikit-learn / ours",
            slow / seconds["ours"],
            "",
            seconds_of_1000_draws=slow,
        ),
        row("bands about both curves and a breakdown / 5 s", seconds["drawn"] / LIMIT, "", seconds=seconds["drawn"]),
    ]
    method = (
        f"{SAMPLES} predictions in {GROUPS} groups, 11 metrics, one thread, CPU seconds, "
        f"median of {ROUNDS} interleaved rounds; resampled tables timed on {SLOW_DRAWS} draws"
    )
    report("evaluate", method, rows, machine("numpy", "pandas", "scikit-learn"))


if __name__ == "__main__":
    main()
