"""What is left of a study, in words and in time: one rule for the sweep's own terminal and for any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from deepfake.sweeping.budget import Budget, seconds_of
from deepfake.sweeping.facts import is_paused, steps_of
from deepfake.sweeping.forecast import LEAST, time_left


@dataclass(frozen=True)
class Terms:
    """What a study is to come to, and who works on it.

    Attributes:
        total: How many trials there are to be; None where that is not known, or a budget says it.
        budget: What they may spend; None for no limit.
        promotes: Whether trials are paused and promoted, so that nobody knows how long they run.
        workers: How many processes run its trials.
        fuse: How many trials each of them may train at a time, which share its time.
        deadline: When no more trials begin, in seconds since 1970; None for no limit.
    """

    total: int | None
    budget: Budget | None
    promotes: bool
    workers: int
    fuse: int = 1
    deadline: float | None = None


def remaining(
    trials: Sequence[FrozenTrial], alive: Sequence[FrozenTrial], terms: Terms, now: float
) -> tuple[str, tuple[float, float] | None]:
    """What is left of a study that is not finished.

    Args:
        trials: Those that are not tried again.
        alive: Those of them that somebody runs.
        terms: The study's.
        now: In seconds since 1970.

    Returns:
        It in words, empty where nothing is left; and the seconds that it takes, a range that holds four times in five,
        None where nothing can be said.
    """
    budget, total = terms.budget, terms.total
    if budget is not None:
        left = budget.amount - budget.spent(trials)
        words = f"{left:.0f} epochs" if budget.in_epochs else f"{left / 3600:.3g} hours of trials"
        return (words, _budget_seconds(trials, left, budget, terms.workers)) if left > 0 else ("", None)
    if total is None:
        return "", None
    ended = [one for one in trials if one.state.is_finished()]
    to_begin = max(0, total - sum(one.state is not TrialState.WAITING for one in trials))
    if terms.promotes:
        runs = any(one.state is TrialState.RUNNING and not is_paused(one) for one in trials)
        words = _many(to_begin) if to_begin else "those that run" if runs else ""
        return f"{words}{', and ' if words else ''}those that are promoted", None
    left = total - len(ended)
    if left <= 0:
        return "", None
    seconds = [seconds_of(one) for one in ended if seconds_of(one) > 0]
    found = time_left(
        seconds, [_so_far(one, terms, now) for one in alive], to_begin, terms.workers, shared=terms.fuse > 1
    )
    if found is not None and terms.deadline is not None:
        rest = max(0.0, terms.deadline - now)
        found = min(found[0], rest), min(found[1], rest)
    return _many(left), found


def _many(count: int) -> str:
    return f"{count} trial{'s' if count > 1 else ''}"


def _so_far(trial: FrozenTrial, terms: Terms, now: float) -> float:
    if terms.fuse > 1:
        # Its share, as it said with its latest epoch.
        return seconds_of(trial)
    return max(0.0, now - float((trial.user_attrs.get("owner") or {}).get("since") or now))


def _budget_seconds(
    trials: Sequence[FrozenTrial], left: float, budget: Budget, workers: int
) -> tuple[float, float] | None:
    """How long what is left of a budget takes: so many pieces, each as long as an epoch of some trial was."""
    if workers < 1:
        return None
    if not budget.in_epochs:
        return left / workers, left / workers
    paces = [seconds_of(one) / steps_of(one) for one in trials if steps_of(one) and seconds_of(one) > 0]
    if len(paces) < LEAST:
        return None
    return time_left(paces, [], round(left), workers)
