"""Which of several detectors differ by more than chance, on the same samples. Knows predictions; no runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deepfake.training.bootstrap import paired_differences
from deepfake.training.delong import Interval, compare_aucs, holm

#: Up to so many detectors every pair is tested; of more, the first with each of the others.
EVERY_PAIR = 5


@dataclass(frozen=True)
class Difference:
    """Two detectors on the same samples.

    Attributes:
        first: Its name.
        second: The other's.
        difference: First minus second, with its bounds, groups drawn again.
        p: Two-sided, by that bootstrap, corrected for the number of pairs.
        p_delong: Of the ROC-AUCs, by DeLong, corrected too; None where the metric is another one.
    """

    first: str
    second: str
    difference: Interval
    p: float
    p_delong: float | None

    def real(self, level: float) -> bool:
        """Whether chance alone would give as much less often than 1 - ``level``."""
        return self.p < 1 - level


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Which pairs are tested: all, or with more than :data:`EVERY_PAIR` the first with each of the others."""
    if len(names) <= EVERY_PAIR:
        return list(itertools.combinations(names, 2))
    return [(names[0], other) for other in names[1:]]


def compare_pairs(
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    units: np.ndarray,
    *,
    metric: str,
    threshold: float,
    resamples: int,
    level: float,
) -> list[Difference]:
    """Test the pairs of :func:`pairs_of` by a paired bootstrap, ROC-AUCs by DeLong too, corrected by Holm.

    Args:
        labels: 0 or 1 [n].
        scores: Probabilities [n] by detector, best first.
        units: What the bootstrap draws [n], equal within a group of samples that share footage or people.
        metric: One of ``metrics.LESS_IS_BETTER``.
        threshold: Where scores are cut, for metrics that need it.
        resamples: Draws.
        level: Confidence of the bounds.

    Raises:
        ValueError: The metric is not defined on these samples.
    """
    pairs = pairs_of(list(scores))
    drawn = [
        paired_differences(
            labels,
            scores[one],
            scores[other],
            units,
            metric=metric,
            threshold=threshold,
            resamples=resamples,
            level=level,
        )
        for one, other in pairs
    ]
    corrected = holm([p for _, p in drawn])
    delong: list[float | None] = [None] * len(pairs)
    if metric == "roc_auc":
        delong = list(holm([compare_aucs(labels, scores[one], scores[other]).p for one, other in pairs]))
    return [
        Difference(one, other, interval, p, p_delong)
        for (one, other), (interval, _), p, p_delong in zip(pairs, drawn, corrected, delong, strict=True)
    ]
