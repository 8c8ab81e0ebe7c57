"""The facts that are recorded with a trial, by their names, and what is read from them. Knows Optuna's trials alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from deepfake.sweeping.callbacks import Objective

#: The number of the failed trial that this one tries again.
RETRY_OF = "retry_of"
#: The bracket that a trial began in, and the epochs to which it may run before it is looked at again; None: its end.
BRACKET, UNTIL = "bracket", "until"
#: The rung at which it waits, None once it goes on; and when it was last paused, in seconds since 1970.
PAUSED, PAUSED_AT = "paused", "paused_at"
#: Seconds that it has run for, over all processes that worked on it one after another.
SPENT = "spent"
#: The command that its owner is to act on, as :mod:`deepfake.sweeping.commands` enters it; who paused it by hand, None
#: once it is resumed; and the number of the command by which its owner is to let go of it after its epoch.
COMMAND, HELD, LEAVE = "command", "held", "leave"
#: Who took it out of the queue before it began.
WITHDRAWN = "withdrawn"


def steps_of(trial: FrozenTrial) -> int:
    """How many epochs a trial has done, as far as it has said."""
    return max(trial.last_step or 0, int(trial.user_attrs.get("progress", 0)))


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial waits, at a rung or because somebody paused it; nobody owns it."""
    if trial.state is not TrialState.RUNNING:
        return False
    facts = trial.user_attrs
    return facts.get("owner") is None and (facts.get(PAUSED) is not None or facts.get(HELD) is not None)


def hold_facts(by: str, now: float) -> dict[str, Any]:
    """What is recorded of a trial that somebody pauses."""
    return {HELD: by, PAUSED_AT: now, "owner": None}


def stop_text(trial: FrozenTrial, by: str, objectives: Sequence[Objective]) -> str:
    """Why a trial ended that somebody stopped: ``stopped by maria@box after epoch 3, best m 0.8``."""
    if not (steps := steps_of(trial)):
        return f"stopped by {by} before its first epoch was done"
    values = [value for value in trial.intermediate_values.values() if not math.isnan(value)]
    objective = objectives[0]
    best = (max if objective.maximize else min)(values) if values else None
    return f"stopped by {by} after epoch {steps}" + ("" if best is None else f", best {objective.metric} {best:.4g}")


def is_held(trial: FrozenTrial) -> bool:
    """Whether somebody paused a trial, so that it waits until somebody resumes it."""
    return is_paused(trial) and trial.user_attrs.get(HELD) is not None
