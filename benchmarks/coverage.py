"""How often 95 % intervals hold the true value, and how often equal runs are called different, on drawn scores.

    python -m benchmarks.coverage [repetitions]

Needs no data, no model and no network; takes about an hour with 400 repetitions, one thread. Scores are normal about
their class, with a part that a unit's samples share; the truth is the metric of 200,000 such samples. Of a perfect
number an interval always holds its upper end, so near 1 it holds the truth in more than 95 %.
"""

from __future__ import annotations

import os
import sys

# Read when NumPy starts its threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from benchmarks.measure import machine, report, row
from deepfake.metrics import WeightedMetrics
from deepfake.training.bootstrap import group_intervals
from deepfake.training.intervals import auc_interval
from deepfake.training.significance import compare_pairs

REPETITIONS, DRAWS, MANY = 400, 300, 200_000
AREAS = (0.5, 0.8, 0.95, 0.99, 0.999)
RUNS = (2, 5, 10, 40, 100)

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A kind of test set.

    Attributes:
        text: What it is like.
        reals: Units of reals; where ``both``, of either.
        fakes: Units of fakes.
        smallest: Samples a unit, at least.
        largest: Samples a unit, at most.
        both: Whether a unit holds one real and fakes that share its effect.
        shared: Deviation of what a unit's samples share, beside 1 of their own.
    """

    text: str
    reals: int
    fakes: int
    smallest: int = 1
    largest: int = 1
    both: bool = False
    shared: float = 0.0

    def units(self) -> tuple[np.ndarray, np.ndarray]:
        """Label and unit of each sample [n], sizes drawn by a seed of their own."""
        sizes = np.random.default_rng(0).integers(self.smallest, self.largest + 1, self.reals + self.fakes)
        if self.both:
            units = np.repeat(np.arange(self.reals), sizes[: self.reals] + 1)
            return np.r_[0, (units[1:] == units[:-1]).astype(np.int64)], units
        units = np.repeat(np.arange(self.reals + self.fakes), sizes)
        return (units >= self.reals).astype(np.int64), units

    def large(self) -> Case:
        """As many units as make the truth, none with two samples of one class: the same metrics."""
        labels, _ = self.units()
        fakes = int(MANY * labels.mean())
        return replace(self, reals=MANY - fakes, fakes=fakes, smallest=1, largest=1, both=False)


CASES = (
    Case("10 reals, 10 fakes", 10, 10),
    Case("10 reals, 60 fakes", 10, 60),
    Case("20 reals, 20 fakes", 20, 20),
    Case("60 reals, 300 fakes", 60, 300),
    Case("12 groups of 1 real + 2 fakes", 12, 0, 2, 2, True, 1.0),
    Case("20 groups of 1 real + 4 fakes", 20, 0, 4, 4, True, 1.0),
    Case("140 groups of 1 real + 4 fakes", 140, 0, 4, 4, True, 1.5),
    Case("15 + 15 groups of 1 to 10, alike only by chance", 15, 15, 1, 10),
    Case("15 + 15 groups of 1 to 10", 15, 15, 1, 10, False, 1.0),
    Case("20 + 30 groups of 5", 20, 30, 5, 5, False, 1.0),
    Case("40 + 40 groups of 1 to 40", 40, 40, 1, 40, False, 1.0),
)


def draw(case: Case, area: float, generator: np.random.Generator) -> Drawn:
    """Labels, scores and units of one test set."""
    labels, units = case.units()
    gap = np.sqrt(2 * (1 + case.shared**2)) * ndtri(area)
    logits = gap * (labels - 0.5) + generator.normal(0, case.shared, units[-1] + 1)[units]
    return labels, 1 / (1 + np.exp(-1.5 * (logits + generator.standard_normal(len(labels))))), units


def truth(case: Case, area: float, generator: np.random.Generator) -> dict[str, float]:
    """The metrics without chance."""
    labels, scores, _ = draw(case.large(), area, generator)
    found = {name: float(value[0]) for name, value in WeightedMetrics(labels, scores)().items()}
    return found | {"roc_auc (DeLong)": found["roc_auc"]}


def coverage(case: Case, area: float, repetitions: int, seed: int) -> dict[str, tuple[float, float, float]]:
    """By metric: how often an interval held the truth, how wide it was, how often one was given."""
    generator = np.random.default_rng(seed)
    true = truth(case, area, generator)
    held: dict[str, list[bool]] = defaultdict(list)
    widths: dict[str, list[float]] = defaultdict(list)
    for repetition in range(repetitions):
        labels, scores, units = draw(case, area, generator)
        found, _ = group_intervals(labels, scores, units, resamples=DRAWS, seed=repetition)
        if "roc_auc" in found:
            found["roc_auc (DeLong)"] = auc_interval(labels, scores, groups=units)
        for name, interval in found.items():
            held[name].append(interval.low <= true[name] <= interval.high)
            widths[name].append(interval.high - interval.low)
    return {name: (np.mean(held[name]), np.mean(widths[name]), len(held[name]) / repetitions) for name in held}


def false_alarms(runs: int, repetitions: int, grouped: bool, seed: int) -> tuple[float, float]:
    """How often any of so many equal runs is called different: by bootstrap, by DeLong."""
    generator = np.random.default_rng(seed)
    labels = np.tile([0, 1, 1, 1, 1], 40) if grouped else np.tile([0, 1], 100)
    units = np.arange(len(labels)) // (5 if grouped else 1)
    alarms = np.zeros(2)
    for _ in range(repetitions):
        common = 1.2 * labels + generator.normal(0, 0.5, len(labels))
        own = generator.normal(0, 0.6, (runs, units[-1] + 1))[:, units]
        scores = 1 / (1 + np.exp(-(common + own + generator.normal(0, 0.6, (runs, len(labels))))))
        areas = [WeightedMetrics(labels, one)()["roc_auc"][0] for one in scores]
        named = {f"run {i}": scores[i] for i in np.argsort(areas)[::-1]}
        found = compare_pairs(labels, named, units, metric="roc_auc", threshold=0.5, resamples=DRAWS, level=0.95)
        called = [[one.p < 0.05, one.p_delong is not None and one.p_delong < 0.05] for one in found]
        alarms += np.any(called, axis=0)
    return float(alarms[0] / repetitions), float(alarms[1] / repetitions)


def rows(repetitions: int, show: Callable[[str], None]) -> Iterator[dict[str, object]]:
    """A row for each case and metric: the least coverage over all true areas and the one that it is of."""
    for case in CASES:
        cells = {area: coverage(case, area, repetitions, seed) for seed, area in enumerate(AREAS)}
        for name in cells[AREAS[0]]:
            told = [(area, *cells[area][name]) for area in AREAS if name in cells[area]]
            for area, share, width, given in told:
                show(f"{case.text:<48} {area:<6} {name:<18} {share:.3f}  {width:.3f}  {given:.2f}")
            area, least, width, _ = min(told, key=lambda cell: cell[1])
            most = max(share for _, share, _, _ in told)
            yield row(
                f"{name}: {case.text}, least often", least, ">= 0.92", at=area, width=float(width), most=float(most)
            )
    for runs in RUNS:
        for grouped in (False, True):
            drawn, delong = false_alarms(runs, max(50, repetitions // 4), grouped, runs)
            units = "40 groups of 5" if grouped else "200 samples"
            yield row(f"{runs} equal runs called different, {units}", drawn, "<= 0.05", by_delong=delong)


def main() -> None:
    """Draw, print, keep."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else REPETITIONS
    print("case, true ROC-AUC, metric, coverage, width, share given")
    found = list(rows(repetitions, print))
    report(
        "coverage",
        f"{repetitions} repetitions a cell, {DRAWS} draws, true ROC-AUC {AREAS}; equal runs: a quarter of them",
        found,
        machine("numpy", "scipy"),
    )


if __name__ == "__main__":
    main()
