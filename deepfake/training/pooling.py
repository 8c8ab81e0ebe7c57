"""A video's score from its clips' logits. Knows numbers only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepfake.errors import UserError, nearest


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logits to probabilities, in the form that neither overflows nor warns at either end."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def pool_clips(rows: np.ndarray, logits: np.ndarray, samples: int, how: str = "mean", top_k: int = 2) -> np.ndarray:
    """One probability for each sample.

    Args:
        rows: Each clip's sample, int [clips] in 0..samples - 1.
        logits: Of the clips, float64 [clips].
        samples: How many there are.
        how: ``mean`` or ``median`` of the clips' probabilities, ``topk``: the mean of the highest, for fakes that are
            fake in places only, or ``log_odds``: the probability of the mean logit.
        top_k: How many clips ``topk`` takes; of a sample with fewer, all.

    Returns:
        Probabilities [samples]; NaN for a sample without clips, or with a clip whose logit is NaN.

    Raises:
        UserError: ``how`` is none of these.
    """
    if how not in POOLS:
        raise UserError(f"evaluation.clips={how!r} is not a choice", nearest(how, POOLS))
    pooled = np.full(samples, np.nan)
    if len(rows) == 0:
        return pooled
    order = np.argsort(rows, kind="stable")
    scored, first, counts = np.unique(rows[order], return_index=True, return_counts=True)
    place = np.arange(len(rows)) - np.repeat(first, counts)
    table = np.full((len(scored), int(counts.max())), np.nan)
    # A NaN here would pass for a clip that is not there; its sample is marked below.
    table[np.repeat(np.arange(len(scored)), counts), place] = np.nan_to_num(logits[order])
    # Rounding may put the mean of ones a hair above one.
    pooled[scored] = np.minimum(POOLS[how](table, top_k), 1.0)
    pooled[rows[np.isnan(logits)]] = np.nan
    return pooled


def _mean(logits: np.ndarray, top_k: int) -> np.ndarray:
    return np.nanmean(sigmoid(logits), axis=1)


def _median(logits: np.ndarray, top_k: int) -> np.ndarray:
    return np.nanmedian(sigmoid(logits), axis=1)


def _topk(logits: np.ndarray, top_k: int) -> np.ndarray:
    # Sorting puts what is missing last, whichever way round.
    return np.nanmean(sigmoid(-np.sort(-logits, axis=1)[:, :top_k]), axis=1)


def _log_odds(logits: np.ndarray, top_k: int) -> np.ndarray:
    return sigmoid(np.nanmean(logits, axis=1))


#: What a video's score can be, from its clips' logits [samples, clips], NaN where a sample has fewer.
POOLS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "mean": _mean,
    "median": _median,
    "topk": _topk,
    "log_odds": _log_odds,
}
