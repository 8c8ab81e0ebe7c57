"""The facts that are recorded with a trial, by their names, and what is read from them. Knows Optuna's trials alone."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

#: The number of the failed trial that this one tries again.
RETRY_OF = "retry_of"
#: The bracket that a trial began in, and the epochs to which it may run before it is looked at again; None: its end.
BRACKET, UNTIL = "bracket", "until"
#: The rung at which it waits, None once it goes on; and when it was last paused, in seconds since 1970.
PAUSED, PAUSED_AT = "paused", "paused_at"
#: Seconds that it has run for, over all processes that worked on it one after another.
SPENT = "spent"


def steps_of(trial: FrozenTrial) -> int:
    """How many epochs a trial has done, as far as it has said."""
    return max(trial.last_step or 0, int(trial.user_attrs.get("progress", 0)))


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial waits at a rung; nobody owns it."""
    facts = trial.user_attrs
    return trial.state is TrialState.RUNNING and facts.get("owner") is None and facts.get(PAUSED) is not None
