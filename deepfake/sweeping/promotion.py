"""Successive halving by promotion: which paused trial goes on to its next rung, or that none does.

Asynchronous (ASHA; Li et al. 2020, arXiv:1810.05934, algorithm 2), and in several brackets as in Hyperband (Li et al.
2018, arXiv:1603.06560). From how far trials are to a decision; knows no storage and no Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

#: Its multiples fill the interval from 0 to 1 evenly, wherever one stops.
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Standing:
    """How far a trial is.

    Attributes:
        number: Its number in the study.
        bracket: The bracket that it began in.
        steps: How many epochs it has done.
        values: The objective after so many epochs, where it was reported.
        waits: Whether it is paused; any other runs, or has ended.
    """

    number: int
    bracket: int
    steps: int
    values: Mapping[int, float] = field(default_factory=dict)
    waits: bool = False


@dataclass(frozen=True)
class Promotion:
    """The rungs at which trials are paused, and who of those that wait there goes on.

    Args:
        min_resource: Epochs to the lowest rung.
        reduction_factor: One in so many of a rung's trials goes on, with so many times the epochs.
        min_early_stopping_rate: How many of the lowest rungs are left out.
        brackets: So many rates, one from the next, are tried side by side; most trials begin in the first bracket.
        ahead: How many epochs ahead of a rung trials are judged, along a straight line through their last two values:
            one that begins low and rises is else lost to one that begins high and stays. 0 judges as published.
        eager: Whether a trial goes on as soon as it is among the best, as published; otherwise once all have begun, and
            none from a higher rung while one of a lower may, so that a rung is judged by all that come to it.
        maximize: Whether larger values are better.

    Raises:
        ValueError: One of them is too small.

    Example:
        >>> halving = Promotion(min_resource=2, reduction_factor=3)
        >>> [halving.epochs(rung, bracket=0) for rung in range(3)]
        [2, 6, 18]
        >>> at_first_rung = [Standing(number, 0, 2, {2: number / 10}, waits=True) for number in range(3)]
        >>> halving.promoted(at_first_rung)
        (2, 6)
    """

    min_resource: int = 1
    reduction_factor: int = 3
    min_early_stopping_rate: int = 0
    brackets: int = 1
    ahead: float = 0.0
    eager: bool = True
    maximize: bool = True

    def __post_init__(self) -> None:
        least = {"min_resource": 1, "reduction_factor": 2, "min_early_stopping_rate": 0, "brackets": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"{name}={value!r} is no whole number from {low} on")
        if isinstance(self.ahead, bool) or not 0 <= self.ahead < math.inf:
            raise ValueError(f"ahead={self.ahead!r} is no number from 0 on")

    def epochs(self, rung: int, bracket: int) -> int:
        """How many epochs a trial has done at a rung, from 0, of a bracket."""
        return self.min_resource * self.reduction_factor ** (self.min_early_stopping_rate + bracket + rung)

    def rung(self, steps: int, bracket: int) -> int:
        """The highest rung reached after so many epochs; -1 below the lowest."""
        rung = -1
        while self.epochs(rung + 1, bracket) <= steps:
            rung += 1
        return rung

    def bracket(self, number: int) -> int:
        """Which bracket a trial begins in, by its number alone: in Hyperband's proportions, evenly mixed."""
        rates = range(self.brackets - 1, -1, -1)
        weights = [self.reduction_factor**rate / (rate + 1) for rate in rates]
        place = number * _GOLDEN % 1 * sum(weights)
        for bracket, weight in enumerate(weights):
            place -= weight
            if place < 0:
                return bracket
        return self.brackets - 1

    def promoted(self, trials: Sequence[Standing]) -> tuple[int, int] | None:
        """The paused trial to go on with: the best of the highest rung that has one, or of the lowest where that is not
        eager; None where a new one may begin.

        Args:
            trials: All of the study.

        Returns:
            Its number, and the epochs to which it goes on.
        """
        rungs = {(trial.bracket, self.rung(trial.steps, trial.bracket)) for trial in trials if trial.waits}
        found = ((self.epochs(rung, bracket), bracket, rung) for bracket, rung in rungs if rung >= 0)
        for _, bracket, rung in sorted(found, reverse=self.eager):
            for trial in self._best(rung, bracket, trials):
                if trial.waits and self.rung(trial.steps, bracket) == rung:
                    return trial.number, self.epochs(rung + 1, bracket)
        return None

    def last_resort(self, trials: Sequence[Standing]) -> tuple[int, int] | None:
        """The same where nobody is among the best of its rung: the best of the highest rung at which one waits.

        A study of few trials would else end without a result.
        """
        waiting = [(self.rung(trial.steps, trial.bracket), trial) for trial in trials if trial.waits]
        sign = 1 if self.maximize else -1
        found: list[tuple[int, float, int, int]] = []
        for rung, trial in waiting:
            value = self.judged(trial, self.epochs(rung, trial.bracket))
            if rung >= 0 and not math.isnan(value):
                found.append((self.epochs(rung, trial.bracket), sign * value, -trial.number, trial.bracket))
        if not found:
            return None
        epochs, _, number, bracket = max(found)
        return -number, self.epochs(self.rung(epochs, bracket) + 1, bracket)

    def rises(self, trial: Standing, trials: Sequence[Standing]) -> bool:
        """Whether a trial that has come to a rung goes on at once: it is among the best there, and its turn is now."""
        if not self.eager:
            others = [one for one in trials if one.number != trial.number]
            found = self.promoted([*others, replace(trial, waits=True)])
            return found is not None and found[0] == trial.number
        rung = self.rung(trial.steps, trial.bracket)
        return rung >= 0 and trial.number in {one.number for one in self._best(rung, trial.bracket, trials)}

    def _best(self, rung: int, bracket: int, trials: Sequence[Standing]) -> list[Standing]:
        """One in ``reduction_factor`` of all that have reached a rung, best first; of equal ones those begun earlier.

        What has no value there counts, and is never among them.
        """
        epochs = self.epochs(rung, bracket)
        reached = [trial for trial in trials if trial.bracket == bracket and trial.steps >= epochs]
        sign = -1 if self.maximize else 1
        values = {trial.number: self.judged(trial, epochs) for trial in reached}
        valued = [trial for trial in reached if not math.isnan(values[trial.number])]
        valued.sort(key=lambda trial: (sign * values[trial.number], trial.number))
        return valued[: len(reached) // self.reduction_factor]

    def judged(self, trial: Standing, epochs: int) -> float:
        """By what a trial is judged after so many epochs; NaN where it has no value there.

        Example:
            >>> Promotion(2, ahead=0.5).judged(Standing(0, 0, 2, {1: 0.5, 2: 0.75}), 2)
            0.875
        """
        value = trial.values.get(epochs, math.nan)
        before = max(
            (step for step, known in trial.values.items() if step < epochs and math.isfinite(known)), default=0
        )
        if not self.ahead or not before or not math.isfinite(value):
            return value
        return value + self.ahead * (value - trial.values[before]) / (epochs - before)
