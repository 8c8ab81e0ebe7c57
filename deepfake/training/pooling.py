"""Logits of clips into one probability for each face and each sample. Knows arrays only: no torch, no tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from deepfake.errors import UserError, nearest
from deepfake.training.calibration import sigmoid


class Pooling(Protocol):
    """How a sample's score is made, as ``evaluation.*`` has it: a face's of its clips', a sample's of its faces'."""

    @property
    def clips(self) -> str: ...
    @property
    def faces(self) -> str: ...
    @property
    def top_k(self) -> int: ...


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

    Example:
        >>> pool_clips(np.array([0, 0, 1]), np.array([2.0, 0.0, -1.0]), samples=3).round(3)
        array([0.69 , 0.269,   nan])
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


def pool_faces(
    rows: np.ndarray, faces: np.ndarray | None, logits: np.ndarray, samples: int, options: Pooling
) -> np.ndarray:
    """One probability for each sample: of a face's clips by ``options.clips``, then of its faces by ``options.faces``.

    Args:
        rows: Each clip's sample, as for :func:`pool_clips`.
        faces: Each clip's face within its sample, int [clips]; None where each sample has one.
        logits: Of the clips.
        samples: How many there are.
        options: How.

    Returns:
        Probabilities [samples]; NaN for a sample without clips, or with a clip whose logit is NaN.
    """
    if faces is None or len(rows) == 0:
        return pool_clips(rows, logits, samples, options.clips, options.top_k)
    owners, own = np.unique(np.stack([rows, faces]), axis=1, return_inverse=True)
    each = pool_clips(own.reshape(-1), logits, owners.shape[1], options.clips, options.top_k)
    table = np.full((samples, int(owners[1].max()) + 1), np.nan)
    table[owners[0], owners[1]] = np.nan_to_num(each)
    pooled = np.full(samples, np.nan)
    there = np.unique(rows)
    pooled[there] = OVER_FACES[options.faces](table[there], options.top_k)
    pooled[owners[0][np.isnan(each)]] = np.nan
    return pooled


def _highest(scores: np.ndarray, top_k: int) -> np.ndarray:
    return np.nanmean(-np.sort(-scores, axis=1)[:, :top_k], axis=1)


#: What a sample's score can be, from its faces' [samples, faces], NaN where it has fewer.
OVER_FACES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "max": lambda scores, top_k: np.nanmax(scores, axis=1),
    "mean": lambda scores, top_k: np.nanmean(scores, axis=1),
    "topk": _highest,
}


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
