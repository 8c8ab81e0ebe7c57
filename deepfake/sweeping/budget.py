"""What the trials of a study may spend in all, in epochs or in hours. Reads lists of trials, no storage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from deepfake.errors import UserError
from deepfake.sweeping.facts import SPENT, UNTIL, is_paused, steps_of
from deepfake.sweeping.options import parse_seconds


@dataclass(frozen=True)
class Budget:
    """A limit over all starts of a study.

    Epochs count once, however often a killed trial repeats one. Hours are those that trials ran for, each on its own
    GPU or its share of the cores, as they said with their latest report.

    Attributes:
        amount: Epochs, or seconds.
        in_epochs: Which of them.
    """

    amount: float
    in_epochs: bool

    def spent(self, trials: Sequence[FrozenTrial]) -> float:
        """What all trials have spent: epochs, or seconds."""
        return float(sum(steps_of(trial) if self.in_epochs else seconds_of(trial) for trial in trials))

    def is_spent(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether nothing more may begin, counting what running trials have yet to do up to their rungs."""
        promised = sum(_left_to_rung(trial) for trial in trials) if self.in_epochs else 0
        return self.spent(trials) + promised >= self.amount

    def describe(self, trials: Sequence[FrozenTrial]) -> str:
        """``120 of 240 epochs``."""
        spent = self.spent(trials)
        if self.in_epochs:
            return f"{spent:.0f} of {self.amount:.0f} epochs"
        return f"{spent / 3600:.3g} of {self.amount / 3600:.4g} hours"


def parse_budget(value: str | float) -> Budget:
    """``sweep.budget``: a number of epochs, or the hours that trials run for, such as ``4h``.

    Raises:
        UserError: It is neither, or not above zero.
    """
    text = str(value).strip()
    if text[-1:] in ("s", "m", "h", "d"):
        return Budget(parse_seconds(text, "sweep.budget"), in_epochs=False)
    try:
        epochs = float(text)
    except ValueError:
        epochs = math.nan
    if not epochs >= 1 or not epochs.is_integer() or isinstance(value, bool):
        raise UserError(
            f"sweep.budget={value!r} is no budget", "write a number of epochs, or the hours that trials run for: 4h"
        )
    return Budget(epochs, in_epochs=True)


def seconds_of(trial: FrozenTrial) -> float:
    """How long a trial has run for, over all processes that worked on it one after another, as far as it has said."""
    facts = trial.user_attrs
    return max(float(facts.get(SPENT) or 0.0), float(facts.get("seconds") or 0.0))


def _left_to_rung(trial: FrozenTrial) -> int:
    if trial.state is not TrialState.RUNNING or is_paused(trial):
        return 0
    return max(0, int(trial.user_attrs.get(UNTIL) or 0) - steps_of(trial))
