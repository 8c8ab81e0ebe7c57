"""Every metric as a function of the samples' weights, for many sets of weights at once.

All weights one: the metrics themselves. Whole numbers: a bootstrap's resamples, each a row of weights and never a copy
of the table, over scores that are sorted once.
"""

from __future__ import annotations

import numpy as np

ECE_BINS = 15


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
        called = (s >= threshold).astype(np.float64)
        with np.errstate(divide="ignore"):
            # The same bound scikit-learn's log_loss puts on its input.
            eps = np.finfo(s.dtype).eps
            bounded = np.clip(s, eps, 1 - eps)
            log_loss = -np.where(y == 1, np.log(bounded), np.log(1 - bounded))
        bins = np.minimum((s * ECE_BINS).astype(np.int64), ECE_BINS - 1)
        gaps = np.zeros((len(s), ECE_BINS))
        gaps[np.arange(len(s)), bins] = s - y
        # Columns whose weighted sums are all that the thresholded metrics and means need.
        self.columns = np.column_stack([np.ones_like(y), y, called, y * called, log_loss, (s - y) ** 2, gaps])
        self.y = y

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics under each row of weights.

        Args:
            weights: Not negative [r, n], in the order of the labels; such as how often each sample was drawn.

        Returns:
            Arrays [r] by the metrics' names; NaN where a metric is not defined under a row's weights.
        """
        w = weights[:, self.order].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._means(w) | self._ranks(w)

    def gaps(self, weights: np.ndarray) -> np.ndarray:
        """By how much scores lie above the labels in each bin of the calibration error, as shares of all [r, bins]."""
        sums = weights[:, self.order].astype(np.float64) @ self.columns
        shares: np.ndarray = sums[:, 6:] / sums[:, :1]
        return shares

    def _means(self, w: np.ndarray) -> dict[str, np.ndarray]:
        # A matrix product sums in an order that depends on the processor; the plain metrics, one row, must not.
        sums = w @ self.columns if len(w) > 1 else (w.T * self.columns).sum(0, keepdims=True)
        n, fakes, called, hits, log_loss, brier = sums[:, :6].T
        reals = n - fakes
        quiet = reals - (called - hits)  # reals not called fake
        recall = hits / fakes
        return {
            "accuracy": (hits + quiet) / n,
            "balanced_accuracy": (recall + quiet / reals) / 2,
            "f1": np.where(fakes > 0, 2 * hits / (fakes + called), np.nan),
            "precision": np.where(fakes > 0, hits / called, np.nan),
            "recall": recall,
            "log_loss": log_loss / n,
            "brier": brier / n,
            "ece": np.abs(sums[:, 6:]).sum(1) / n,
        }

    def _ranks(self, w: np.ndarray) -> dict[str, np.ndarray]:
        fake_runs = np.add.reduceat(w * self.y, self.starts, axis=1)  # [r, distinct scores], rising
        real_runs = np.add.reduceat(w * (1 - self.y), self.starts, axis=1)
        fakes, reals = fake_runs.sum(1), real_runs.sum(1)
        reals_below = np.cumsum(real_runs, axis=1) - real_runs
        auc = (fake_runs * (reals_below + real_runs / 2)).sum(1) / (fakes * reals)
        # From the highest score down: what a falling threshold calls fake.
        hits = np.cumsum(fake_runs[:, ::-1], axis=1)
        alarms = np.cumsum(real_runs[:, ::-1], axis=1)
        called = hits + alarms
        precision = np.where(called > 0, hits / np.where(called > 0, called, 1), 0)
        average = (fake_runs[:, ::-1] * precision).sum(1) / fakes
        both = (fakes > 0) & (reals > 0)
        eer = _equal_error_rates(alarms / reals[:, None], 1 - hits / fakes[:, None])
        named = {"roc_auc": auc, "average_precision": average, "eer": eer}
        return {name: np.where(both, values, np.nan) for name, values in named.items()}


def _equal_error_rates(alarms: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Where straight lines between the points (alarms, misses) [r, k] cross the diagonal."""
    rows = np.arange(len(alarms))
    after = np.argmax(alarms >= misses, axis=1)
    before = np.maximum(after - 1, 0)
    # Before the first point nothing is called fake: no alarms, all missed.
    x0 = np.where(after > 0, alarms[rows, before], 0.0)
    y0 = np.where(after > 0, misses[rows, before], 1.0)
    x1, y1 = alarms[rows, after], misses[rows, after]
    share = (y0 - x0) / ((x1 - x0) + (y0 - y1))
    rates: np.ndarray = x0 + share * (x1 - x0)
    return rates
