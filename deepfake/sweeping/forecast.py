"""How long what is left of a study will take, as a range, from how long its trials took. Knows numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: Below so many ended trials nothing is said.
LEAST = 5
#: Studies that are drawn, and the part of them that ends within the range.
_DRAWN, _WITHIN = 400, 0.8
#: How often what is drawn for running trials and what is known of all are made to fit each other.
_ROUNDS = 3
#: Of more trials than this several are drawn as one.
_STEPS = 2000
#: No trial takes so many powers of e longer than another.
_WIDEST = 3.0


def time_left(
    ended: Sequence[float], running: Sequence[float], to_begin: int, workers: int, shared: bool = False
) -> tuple[float, float] | None:
    """When the last trial will end, in seconds from now: four times in five within the range.

    Trials' times are taken for log-normal, with mean and spread as uncertain as so few trials leave them; each worker
    takes the next trial as soon as it is free.

    Args:
        ended: Seconds that each ended trial took.
        running: Seconds that each running one has taken so far.
        to_begin: How many are still to begin.
        workers: How many run at a time.
        shared: Whether those beyond the number of workers share one with others, instead of having one that leaves with
            them; all seconds are then each trial's share.

    Returns:
        The earliest and the latest; None where fewer than :data:`LEAST` have ended, or none will.

    Example:
        >>> low, high = time_left([60.0, 55.0, 70.0, 62.0, 58.0], running=[10.0], to_begin=9, workers=1)
        >>> 540 < low < 600 < high < 660
        True
    """
    seconds = np.log(np.maximum(np.asarray(ended, dtype=float), 1e-3))
    if len(seconds) < LEAST or workers < 1:
        return None
    random = np.random.default_rng(0)
    known = np.tile(seconds, (_DRAWN, 1))  # [drawn, trials]
    centre, spread = _fitted(random, known)
    if running:
        # Those that end first are the short ones: what still runs counts too, with a time drawn for it.
        for _ in range(_ROUNDS):
            whole = [np.log(sofar + _rest(random, centre, spread, sofar)) for sofar in running]
            centre, spread = _fitted(random, np.column_stack([known, *whole]))
    # [drawn, workers]: when each is free.
    free = np.zeros((_DRAWN, workers if shared else max(workers, len(running))))
    for place, sofar in enumerate(running):
        free[:, place % free.shape[1]] += _rest(random, centre, spread, sofar)
    rows, steps = np.arange(_DRAWN), min(to_begin, _STEPS)
    for _ in range(steps):
        # Of more running trials than workers, the last to end have no successor.
        first = np.argsort(free, axis=1)[:, -workers] if free.shape[1] > workers else free.argmin(axis=1)
        free[rows, first] += to_begin / steps * np.exp(centre + spread * random.standard_normal(_DRAWN))
    low, high = np.quantile(free.max(axis=1), [(1 - _WITHIN) / 2, (1 + _WITHIN) / 2])
    return float(low), float(high)


def lasting(seconds: tuple[float, float]) -> str:
    """A range of seconds for a person: ``40 s to 3 min``."""
    low, high = map(duration, seconds)
    return low if low == high else f"{low} to {high}"


def duration(seconds: float) -> str:
    """Seconds for a person: ``40 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _fitted(random: np.random.Generator, logarithms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of logarithms of times [drawn, trials], drawn from what is known of each."""
    count = logarithms.shape[1]
    variance = np.maximum(logarithms.var(axis=1, ddof=1), 1e-6)
    spread = np.sqrt((count - 1) * variance / random.chisquare(count - 1, len(logarithms)))
    spread = np.minimum(spread, _WIDEST)
    return logarithms.mean(axis=1) + spread * random.standard_normal(len(logarithms)) / math.sqrt(count), spread


def _rest(random: np.random.Generator, centre: np.ndarray, spread: np.ndarray, sofar: float) -> np.ndarray:
    """What is left of trials that have run so long: of those drawn again and again, the first that takes longer."""
    rest = np.full(len(centre), np.nan)
    for _ in range(50):
        open_ = np.isnan(rest)
        if not open_.any():
            break
        drawn = np.exp(centre[open_] + spread[open_] * random.standard_normal(int(open_.sum()))) - sofar
        rest[open_] = np.where(drawn > 0, drawn, np.nan)
    # It runs longer than any is known to: perhaps as long again.
    return np.where(np.isnan(rest), sofar * random.random(len(rest)), rest)
