"""The metrics: what each is called, what it needs, how it is computed; and a predictions table to all of them.

A number that is not defined (one class only, say) is reported as not available with the reason, never as 0. Tests hold
every metric against scikit-learn's. A metric is a function of the samples' weights, for many sets of weights at once:
weights that are all one give the metric itself; whole numbers are a bootstrap's resamples, each a row of weights and
never a copy of the table, over scores that are sorted once. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

ECE_BINS = 15
#: What metrics read of scores, in the order in which an evaluation lists them.
READS = ("ranks", "calls", "probabilities")
#: The parts of a profiled epoch, in the order in which it goes through them; their seconds are ``profile/<part>``.
EPOCH_PARTS = ("data_wait", "transfer", "forward", "backward", "optimizer", "validation", "logging")


@dataclass(frozen=True)
class Metric:
    """One number of a predictions table; a further one is one more entry of :data:`METRICS`.

    Attributes:
        name: As it is logged.
        title: As people call it.
        reads: What it reads of scores: their ``ranks``, ``calls`` (which lie at or above the threshold) or
            ``probabilities``.
        compute: From :class:`Weighted` to an array [r], one value for each row of weights.
        less_is_better: Whether it is an error.
        needs: The classes it is not defined without: none, ``fake``, or ``both``.
        undefined: Why it may not be defined where these classes are there.
        units: What its variance is counted in: independent units of ``all`` samples, of ``fake`` ones, of the class
            that has the ``fewest``, or as areas of ``ranked`` samples have them.
        trust: How many errors the prior sample weighs; see
            :func:`deepfake.training.intervals.fraction_bounds`. Rates vary as their errors do; areas and squared errors
            are made of few large ones. Set by simulation: ``benchmarks/coverage.py``.
        low: The least it can be.
        high: The most it can be; infinity for a mean of log losses.
        headline: Whether every run shows it: in its lines, on leaderboards and in tables of sweeps, with interval.
        curve: Whether it is drawn over epochs.
        by_group: Whether it is shown for each method, compression and other part.
    """

    name: str
    title: str
    reads: str
    compute: Callable[[Weighted], np.ndarray]
    less_is_better: bool = False
    needs: str = ""
    undefined: str = "not defined on these samples"
    units: str = "fewest"
    trust: float = 0.25
    low: float = 0.0
    high: float = 1.0
    headline: bool = False
    curve: bool = False
    by_group: bool = False

    @property
    def heading(self) -> str:
        """The title as a column has it."""
        return self.title[:1].upper() + self.title[1:]


@dataclass(frozen=True)
class Interval:
    """A value and the bounds it lies between with a certain confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass
class Metrics:
    """What could be computed, and why the rest could not.

    Attributes:
        values: Name to number.
        unavailable: Name to reason.
    """

    values: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


def metric_names(reads: str | None = None, **marks: bool) -> list[str]:
    """The names of the metrics that read scores so, or are marked so (``headline=True``), in their order."""
    return [
        name
        for name, metric in METRICS.items()
        if reads in (None, metric.reads) and all(getattr(metric, mark) == value for mark, value in marks.items())
    ]


def sample_metrics(table: pd.DataFrame, threshold: float = 0.5) -> Metrics:
    """All of :data:`METRICS` over a table of predictions.

    Args:
        table: ``label`` (1 is fake) and ``score`` in 0..1; with a ``status`` column, only rows that say ``ok``
            count (the others were never scored: no face, cannot be decoded).
        threshold: Scores at or above it count as fake in accuracy, F1, precision and recall.

    Raises:
        ValueError: A row that counts has a NaN score, a score outside 0..1, or a label other than 0 and 1.
    """
    counted = table[table["status"] == "ok"] if "status" in table else table
    labels = counted["label"].to_numpy(dtype=np.int64)
    scores = counted["score"].to_numpy(dtype=np.float64)
    check_scores(labels, scores)
    unavailable = {name: lacking(metric, labels) for name, metric in METRICS.items()}
    if all(unavailable.values()):
        return Metrics({}, unavailable)
    found = {name: float(values[0]) for name, values in WeightedMetrics(labels, scores, threshold)().items()}
    unavailable = {
        name: unavailable[name] or metric.undefined
        for name, metric in METRICS.items()
        if unavailable[name] or np.isnan(found[name])
    }
    return Metrics({name: value for name, value in found.items() if name not in unavailable}, unavailable)


def lacking(metric: Metric, labels: np.ndarray) -> str:
    """Why a metric is not defined on samples of these classes; empty where it is."""
    if len(labels) == 0:
        return "no sample was scored"
    if metric.needs == "both" and labels.min() == labels.max():
        return f"only {('real', 'fake')[int(labels[0])]} samples"
    return "only real samples" if metric.needs == "fake" and not labels.any() else ""


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray, bins: int = ECE_BINS) -> float:
    """The mean gap between score and fraction of fakes, over equally wide bins of the score, weighted by their size.

    Args:
        labels: 0 or 1 [n].
        scores: Probabilities of fake [n].
        bins: How many. Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".
    """
    which = np.minimum((scores * bins).astype(np.int64), bins - 1)
    gap = np.bincount(which, weights=scores - labels, minlength=bins)
    return float(np.abs(gap).sum() / len(scores))


def reliability(labels: np.ndarray, scores: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """How often samples called fake with a probability are fake, by equally wide bins of the probability.

    Args:
        labels: 0 or 1 [n].
        scores: Probabilities of fake [n].
        bins: How many; those without a sample are left out.

    Returns:
        ``bin``, ``score`` (the mean), ``fraction`` (of fakes), ``low`` and ``high`` (Wilson's interval, which stays
        inside 0..1 and has a width where all samples agree) and ``n``.
    """
    from scipy.stats import binomtest

    which = np.minimum((scores * bins).astype(np.int64), bins - 1)
    rows = []
    for place in np.unique(which):
        inside = which == place
        fakes, n = int(labels[inside].sum()), int(inside.sum())
        ends = binomtest(fakes, n).proportion_ci(method="wilson")
        rows.append((int(place), float(scores[inside].mean()), fakes / n, float(ends.low), float(ends.high), n))
    return pd.DataFrame(rows, columns=["bin", "score", "fraction", "low", "high", "n"])


def class_counts(labels: npt.ArrayLike) -> dict[str, int]:
    """How many samples are ``real`` and how many ``fake``, from labels 0 and 1 [n]."""
    fake = np.asarray(labels) == 1
    return {"real": int((~fake).sum()), "fake": int(fake.sum())}


def check_scores(labels: np.ndarray, scores: np.ndarray) -> None:
    """Refuse what no metric is defined on.

    Raises:
        ValueError: Labels other than 0 and 1, NaN scores, or scores outside 0..1.
    """
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 and 1, found {sorted(set(labels.tolist()))}")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")
    if ((scores < 0) | (scores > 1)).any():
        raise ValueError("scores must be probabilities in 0..1")


class WeightedMetrics:
    """Metrics as functions of the samples' weights.

    Args:
        labels: 0 or 1 [n].
        scores: Probabilities [n].
        threshold: Scores at or above it count as fake.
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray, threshold: float = 0.5) -> None:
        self.order = np.argsort(scores, kind="stable")
        y, s = labels[self.order].astype(np.float64), scores[self.order]
        # Where each run of equal scores begins.
        self.starts = np.flatnonzero(np.r_[True, s[1:] != s[:-1]])
        predicted = (s >= threshold).astype(np.float64)
        with np.errstate(divide="ignore"):
            # The same bound scikit-learn's log_loss puts on its input.
            eps = np.finfo(s.dtype).eps
            bounded = np.clip(s, eps, 1 - eps)
            log_loss = -np.where(y == 1, np.log(bounded), np.log(1 - bounded))
        bins = np.minimum((s * ECE_BINS).astype(np.int64), ECE_BINS - 1)
        gaps = np.zeros((len(s), ECE_BINS))
        gaps[np.arange(len(s)), bins] = s - y
        # Columns whose weighted sums are all that metrics of calls and of probabilities need.
        self.columns = np.column_stack([np.ones_like(y), y, predicted, y * predicted, log_loss, (s - y) ** 2, gaps])
        self.y = y

    def __call__(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Metrics under each row of weights.

        Args:
            weights: Not negative [r, n], in the order of the labels; such as how often each sample was drawn. None
                counts each sample once.

        Returns:
            Arrays [r] by the metrics' names; NaN where a metric is not defined under a row's weights.
        """
        weighted = self.weighted(weights)
        defined = {"": weighted.n >= 0, "fake": weighted.fakes > 0, "both": (weighted.fakes > 0) & (weighted.reals > 0)}
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                name: np.where(defined[metric.needs], metric.compute(weighted), np.nan)
                for name, metric in METRICS.items()
            }

    def weighted(self, weights: np.ndarray | None = None) -> Weighted:
        """The sums that metrics are made of, under each row of weights; see :meth:`__call__`."""
        rows = np.ones((1, len(self.y))) if weights is None else weights
        return Weighted(self, rows[:, self.order].astype(np.float64))


class Weighted:
    """Weighted counts and sums [r] that metrics are made of; each is computed when the first metric asks for it.

    Args:
        samples: Sorted by their scores.
        weights: Of the sorted samples [r, n].
    """

    def __init__(self, samples: WeightedMetrics, weights: np.ndarray) -> None:
        self._samples, self._weights = samples, weights

    @cached_property
    def _sums(self) -> np.ndarray:
        w, columns = self._weights, self._samples.columns
        # A matrix product sums in an order that depends on the processor; the plain metrics, one row, must not.
        sums: np.ndarray = w @ columns if len(w) > 1 else (w.T * columns).sum(0, keepdims=True)
        return sums

    @property
    def n(self) -> np.ndarray:
        """Samples."""
        return self._sums[:, 0]

    @property
    def fakes(self) -> np.ndarray:
        """Samples that are fake."""
        return self._sums[:, 1]

    @property
    def reals(self) -> np.ndarray:
        """Samples that are real."""
        return self.n - self.fakes

    @property
    def predicted(self) -> np.ndarray:
        """Samples that are called fake."""
        return self._sums[:, 2]

    @property
    def true_positives(self) -> np.ndarray:
        """Fakes that are called fake."""
        return self._sums[:, 3]

    @property
    def true_negatives(self) -> np.ndarray:
        """Reals that are not called fake."""
        return self.reals - (self.predicted - self.true_positives)

    @property
    def log_loss(self) -> np.ndarray:
        """The sum of the samples' log losses."""
        return self._sums[:, 4]

    @property
    def squared_error(self) -> np.ndarray:
        """The sum of the samples' squared errors."""
        return self._sums[:, 5]

    @property
    def gaps(self) -> np.ndarray:
        """By how much scores lie above the labels, summed in each bin of the calibration error [r, bins]."""
        return self._sums[:, 6:]

    @cached_property
    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Fakes and reals at each distinct score, rising, [r, k] each."""
        fakes = np.add.reduceat(self._weights * self._samples.y, self._samples.starts, axis=1)
        reals = np.add.reduceat(self._weights * (1 - self._samples.y), self._samples.starts, axis=1)
        return fakes, reals

    @cached_property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives, [r, k] each, as a threshold falls from the highest distinct score to the lowest."""
        fakes, reals = self.runs
        return np.cumsum(fakes[:, ::-1], axis=1), np.cumsum(reals[:, ::-1], axis=1)


def _balanced_accuracy(w: Weighted) -> np.ndarray:
    return (w.true_positives / w.fakes + w.true_negatives / w.reals) / 2


def _roc_auc(w: Weighted) -> np.ndarray:
    fakes, reals = w.runs
    reals_below = np.cumsum(reals, axis=1) - reals
    areas: np.ndarray = (fakes * (reals_below + reals / 2)).sum(1) / (fakes.sum(1) * reals.sum(1))
    return areas


def _average_precision(w: Weighted) -> np.ndarray:
    fakes, (true, false) = w.runs[0], w.curve
    predicted = true + false
    precision = np.where(predicted > 0, true / np.where(predicted > 0, predicted, 1), 0)
    averages: np.ndarray = (fakes[:, ::-1] * precision).sum(1) / fakes.sum(1)
    return averages


def _equal_error_rate(w: Weighted) -> np.ndarray:
    """Where straight lines between the points (false positive rate, miss rate) cross the diagonal."""
    (fakes, reals), (true, false) = w.runs, w.curve
    false_positives, misses = false / reals.sum(1)[:, None], 1 - true / fakes.sum(1)[:, None]
    rows = np.arange(len(false_positives))
    after = np.argmax(false_positives >= misses, axis=1)
    before = np.maximum(after - 1, 0)
    # Before the first point nothing is called fake: no false positives, all missed.
    x0 = np.where(after > 0, false_positives[rows, before], 0.0)
    y0 = np.where(after > 0, misses[rows, before], 1.0)
    x1, y1 = false_positives[rows, after], misses[rows, after]
    rates: np.ndarray = x0 + (y0 - x0) / ((x1 - x0) + (y0 - y1)) * (x1 - x0)
    return rates


#: Every metric, in the order in which they are listed.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "accuracy",
            "accuracy",
            "calls",
            lambda w: (w.true_positives + w.true_negatives) / w.n,
            units="all",
            headline=True,
            curve=True,
            by_group=True,
        ),
        Metric("balanced_accuracy", "balanced accuracy", "calls", _balanced_accuracy, needs="both", curve=True),
        Metric(
            "f1",
            "F1",
            "calls",
            lambda w: 2 * w.true_positives / (w.fakes + w.predicted),
            needs="fake",
            headline=True,
            curve=True,
            by_group=True,
        ),
        Metric(
            "precision",
            "precision",
            "calls",
            lambda w: w.true_positives / w.predicted,
            needs="fake",
            undefined="no sample was called fake",
        ),
        Metric("recall", "recall", "calls", lambda w: w.true_positives / w.fakes, needs="fake", units="fake"),
        Metric(
            "roc_auc",
            "ROC-AUC",
            "ranks",
            _roc_auc,
            needs="both",
            units="ranked",
            trust=1.0,
            headline=True,
            curve=True,
            by_group=True,
        ),
        Metric(
            "average_precision",
            "average precision",
            "ranks",
            _average_precision,
            needs="both",
            units="ranked",
            trust=4.0,
            curve=True,
            by_group=True,
        ),
        Metric("eer", "equal error rate", "ranks", _equal_error_rate, less_is_better=True, needs="both", by_group=True),
        Metric(
            "log_loss",
            "log loss",
            "probabilities",
            lambda w: w.log_loss / w.n,
            less_is_better=True,
            units="all",
            trust=1.0,
            high=float("inf"),
        ),
        Metric(
            "brier",
            "Brier score",
            "probabilities",
            lambda w: w.squared_error / w.n,
            less_is_better=True,
            units="all",
            trust=1.0,
        ),
        Metric(
            "ece",
            "calibration error (ECE)",
            "probabilities",
            lambda w: np.abs(w.gaps).sum(1) / w.n,
            less_is_better=True,
            units="all",
        ),
    )
}
