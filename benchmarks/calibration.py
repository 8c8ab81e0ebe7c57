"""Calibration error on a large test part after fitting on a small validation part: ours against slope and intercept.

    python -m benchmarks.calibration

Scores of two normal classes, whose posterior is known: shares of fakes from 10 to 90 %, classes 1 to 4 deviations
apart, 60 to 2,000 validation samples, with the prior that ``trainer.balance=pos_weight`` shifts away and without, and
logits that are right, too small and too large. Needs no data and no network; takes about five minutes on one thread.
"""

from __future__ import annotations

import os

# Read when NumPy starts its threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from itertools import product

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from benchmarks.measure import machine, report, row
from deepfake.metrics import expected_calibration_error
from deepfake.training.fitting import fit_calibrator
from deepfake.training.options import EvaluationOptions

SHARES, GAPS, SIZES, HOTS = (0.1, 0.2, 0.5, 0.8, 0.9), (1.0, 2.0, 3.0, 4.0), (60, 200, 600, 2000), (1.0, 0.4, 3.0)
TESTED = 5000
#: Each size is tried so often that its mean is known to a few thousandths.
DRAWS = {60: 30, 200: 20, 600: 10, 2000: 6}
REACH = 0.02
METHODS = ("none", "slope and intercept", EvaluationOptions().calibration)


def draw(
    generator: np.random.Generator, n: int, share: float, gap: float, hot: float, shifted: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n], both present, and scores [n] of a detector whose logits are the true ones, shifted and times hot."""
    labels = (generator.random(n) < share).astype(np.int64)
    labels[:2] = 0, 1
    seen = gap * (labels - 0.5) + generator.standard_normal(n)
    prior = 0.0 if shifted else np.log(share / (1 - share))
    return labels, _sigmoid(np.clip(hot * (gap * seen + prior), -27, 27))


def slope_and_intercept(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Of the least log loss on hard labels, by a library."""
    z = _logits(scores)

    def loss(values: np.ndarray) -> float:
        logits = values[0] * z + values[1]
        return float(np.mean(np.logaddexp(0, logits) - labels * logits))

    slope, intercept = minimize(loss, [1.0, 0.0]).x
    return float(slope), float(intercept)


def case(size: int, share: float, gap: float, hot: float, shifted: bool) -> tuple[np.ndarray, int]:
    """Mean calibration error [method] on the test part, and how often ours was worse than none where it was fitted."""
    generator = np.random.default_rng([size, round(100 * share), round(gap), round(10 * hot), shifted])
    errors, worse = [], 0
    for _ in range(DRAWS[size]):
        labels, scores = draw(generator, size, share, gap, hot, shifted)
        new, seen = draw(generator, TESTED, share, gap, hot, shifted)
        slope, intercept = slope_and_intercept(labels, scores)
        ours = fit_calibrator(labels, scores, METHODS[2])
        probabilities = seen, _sigmoid(slope * _logits(seen) + intercept), ours(seen)
        errors.append([expected_calibration_error(new, p) for p in probabilities])
        before, after = (
            np.array([_log_loss(labels, p), expected_calibration_error(labels, p)]) for p in (scores, ours(scores))
        )
        worse += bool((after > before + 1e-9).any())
    found: np.ndarray = np.mean(errors, 0)
    return found, worse


def _log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    bounded = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return float(-np.log(np.where(labels == 1, bounded, 1 - bounded)).mean())


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    probabilities: np.ndarray = 0.5 * (1 + np.tanh(0.5 * logits))
    return probabilities


def _logits(scores: np.ndarray) -> np.ndarray:
    bounded = np.clip(scores, 1e-12, 1 - 1e-12)
    logits: np.ndarray = np.log(bounded / (1 - bounded))
    return logits


def main() -> None:
    """Measure, print, keep."""
    table = Table(title="ECE on test: none / slope and intercept / ours, mean over the classes' distances")
    for name in ("validation", "logits", "pos_weight", *(f"{share:.0%} fake" for share in SHARES)):
        table.add_column(name, justify="right")
    rows = []
    for size in SIZES:
        beyond, raw, worse, tried = [], [], 0, 0
        for hot, shifted in product(HOTS, (False, True)):
            cells = []
            for share in SHARES:
                found, bad = zip(*(case(size, share, gap, hot, shifted) for gap in GAPS), strict=True)
                cells.append(" / ".join(f"{error:.3f}" for error in np.mean(found, 0)))
                beyond += [errors[2] - errors[1] for errors in found]
                raw += [errors[0] for errors in found]
                worse, tried = worse + sum(bad), tried + DRAWS[size] * len(GAPS)
            table.add_row(str(size), f"x {hot:g}", "yes" if shifted else "no", *cells)
        cases = f"{size} validation samples: the worst of {len(beyond)} cases"
        what = f"ECE on test beyond that of slope and intercept, {cases}"
        detail = {"mean": float(np.mean(beyond)), "none": float(np.mean(raw)), "worse_than_none_where_fitted": worse}
        rows.append(row(what, max(beyond), f"<= {REACH:g}", **detail, fits=tried))
    Console(width=190).print(table)
    method = f"{METHODS[2]}, means over {', '.join(f'{DRAWS[size]} x {size}' for size in SIZES)}; {TESTED} test samples"
    report("calibration", method, rows, machine("numpy", "scipy"))


if __name__ == "__main__":
    main()
