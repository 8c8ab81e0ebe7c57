"""Which trials of a study count, what is left of it, and why no further trial may start.

Judges lists of a study's trials, all of them in order; reads and writes no storage.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from deepfake.errors import UserError
from deepfake.sweeping.facts import BRACKET, PAUSED_AT, RETRY_OF, UNTIL, is_held, is_paused, steps_of
from deepfake.sweeping.promotion import Promotion, Standing
from deepfake.sweeping.stopping import Stopping
from deepfake.sweeping.study_plan import StudyPlan


class Schedule:
    """A study's progress towards its total. What has ended does not change, so each trial is looked at once.

    Attributes:
        mistake: What this start's trials would all stumble over, if one of them has.
        superseded: The numbers of failed trials that were tried again under another number.
        stopping: Whether its rule ends it before the total.
        lag: So many trials before it a trial may know; in a study without an order it knows all that have ended.
    """

    def __init__(self, plan: StudyPlan) -> None:
        self._plan = plan
        # All trials below this index have ended and are counted; of those beyond it, some are.
        self._first_open = 0
        self._ended_beyond: set[int] = set()
        self._recent: list[tuple[float, int, FrozenTrial]] = []
        self._known = 0
        self._last_pause = 0.0
        self.mistake: UserError | None = None
        self.superseded: set[int] = set()
        self.stopping = Stopping(plan.stop_when, plan.objectives[0].maximize, plan.seed)
        self.lag = 1

    def count(self, trials: Sequence[FrozenTrial]) -> int:
        """How many trials have ended and are not tried again."""
        self.superseded |= superseded(trials[self._known :])
        self._known = len(trials)
        for index in range(self._first_open, len(trials)):
            # One that was paused has got that far.
            self._last_pause = max(self._last_pause, float(trials[index].user_attrs.get(PAUSED_AT, 0)))
            if index not in self._ended_beyond and trials[index].state.is_finished():
                self._ended_beyond.add(index)
                self._note_end(trials[index])
        while self._first_open in self._ended_beyond:
            self._ended_beyond.remove(self._first_open)
            self._first_open += 1
        self.stopping.look(trials, self._first_open)
        return self._first_open + len(self._ended_beyond) - len(self.superseded)

    def ended_at_first(self, trials: Sequence[FrozenTrial]) -> int:
        """How many trials have ended before the first that has not."""
        self.count(trials)
        return self._first_open

    def open(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those that have not ended."""
        self.count(trials)
        return [trial for trial in trials[self._first_open :] if not trial.state.is_finished()]

    def begun(self, trials: Sequence[FrozenTrial]) -> int:
        """How many trials have been begun, those tried again among them."""
        return len(trials) - sum(trial.state is TrialState.WAITING for trial in self.open(trials))

    def has_room(self, begun: int) -> bool:
        """Whether the total allows another trial to begin after so many."""
        within = self._plan.total is None or begun - len(self.superseded) < self._plan.total
        return within and not self.is_over(begun)

    def is_over(self, begun: int) -> bool:
        """Whether the study's rule lets no further trial begin after so many."""
        # In order, the trials that may not know of the end yet begin all the same, whoever is there to begin them.
        return self.stopping.after is not None and begun >= self.stopping.after + self.lag - 1

    def is_spent(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether the budget allows nothing more to begin."""
        return self._plan.budget is not None and self._plan.budget.is_spent(trials)

    def is_done(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether every trial of the study has ended, or is paused and there is none to go on with."""
        plan, ended = self._plan, self.count(trials)
        if plan.promotion is None and plan.budget is None and self.stopping.after is None:
            return plan.total is not None and ended >= plan.total
        if any(trial.state is TrialState.RUNNING and not self.waits(trial) for trial in self.open(trials)):
            return False
        if self.is_spent(trials):
            return True
        return not self.has_room(self.begun(trials)) and self.to_promote(trials) is None

    # ---- promotion

    def waits(self, trial: FrozenTrial) -> bool:
        """Whether a trial is paused at a rung of this start's."""
        halving = self._plan.promotion
        if halving is None or not is_paused(trial) or is_held(trial):
            return False
        return halving.rung(steps_of(trial), self.bracket(trial)) >= 0

    def held(self, trials: Sequence[FrozenTrial]) -> list[int]:
        """The numbers of the trials that somebody paused, where nothing else runs; else none."""
        running = [trial for trial in self.open(trials) if trial.state is TrialState.RUNNING and not self.waits(trial)]
        held = [trial.number for trial in running if is_held(trial)]
        return held if len(held) == len(running) else []

    def has_arrived(self, trial: FrozenTrial) -> bool:
        """Whether a running trial has come to the rung at which it is looked at again."""
        until = trial.user_attrs.get(UNTIL)
        arrived = until is not None and steps_of(trial) >= until
        return self._plan.promotion is not None and arrived and not is_paused(trial)

    def to_promote(self, trials: Sequence[FrozenTrial]) -> tuple[FrozenTrial, int] | None:
        """The paused trial to go on with, and the epochs to which it goes; None where there is none."""
        halving = self._plan.promotion
        if halving is None or self._begins_first(trials):
            return None
        standings = self._standings(trials)
        found = halving.promoted(standings)
        if found is None and self._would_end_empty(trials):
            found = halving.last_resort(standings)
        return None if found is None else (trials[found[0]], found[1])

    def rises(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Whether a running trial that has come to its rung goes on at once."""
        halving = self._plan.promotion
        assert halving is not None
        if self.stop_reason(trials) is not None or self.is_spent(trials) or self._begins_first(trials):
            return False
        return halving.rises(self._standing(trial), self._standings(trials))

    def bracket(self, trial: FrozenTrial) -> int:
        """The bracket that a trial began in."""
        halving = self._plan.promotion
        assert halving is not None
        return bracket_of(trial, halving)

    def next_rung(self, trial: FrozenTrial) -> int:
        """The epochs at which a trial comes to a rung that it has not reached yet."""
        halving = self._plan.promotion
        assert halving is not None
        bracket = self.bracket(trial)
        return halving.epochs(halving.rung(steps_of(trial), bracket) + 1, bracket)

    def _begins_first(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether none is promoted yet, since some are to begin."""
        halving = self._plan.promotion
        return halving is not None and not halving.eager and self.has_room(self.begun(trials))

    def _would_end_empty(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether none has completed, none runs and none is to begin."""
        if self.has_room(self.begun(trials)):
            return False
        return not any(
            trial.state is TrialState.COMPLETE or (trial.state is TrialState.RUNNING and not self.waits(trial))
            for trial in trials
        )

    def _standings(self, trials: Sequence[FrozenTrial]) -> list[Standing]:
        return [self._standing(trial) for trial in standing(trials) if trial.state is not TrialState.WAITING]

    def _standing(self, trial: FrozenTrial) -> Standing:
        bracket, steps = self.bracket(trial), steps_of(trial)
        return Standing(trial.number, bracket, steps, trial.intermediate_values, self.waits(trial))

    def stop_reason(self, trials: Sequence[FrozenTrial]) -> str | None:
        """Why no further trial may start although some are left: a mistake in all of them, failures, or time."""
        self.count(trials)
        plan = self._plan
        if self.mistake is not None:
            return self.mistake.message
        failures = self._failures_in_a_row()
        if plan.max_failures is not None and len(failures) >= plan.max_failures:
            return (
                f"{len(failures)} trials in a row failed, the first because of {failures[0].user_attrs.get('reason')}"
            )
        if plan.deadline is not None and plan.clock.now() >= plan.deadline:
            return "sweep.timeout is over"
        return None

    def _failures_in_a_row(self) -> list[FrozenTrial]:
        """The latest of this start's trials, as far back as they failed, in the order in which they ended."""
        row: list[FrozenTrial] = []
        for ended, _, trial in reversed(self._recent):
            if trial.state is not TrialState.FAIL or ended < self._last_pause:
                break
            row.append(trial)
        return row[::-1]

    def _note_end(self, trial: FrozenTrial) -> None:
        ended = float(trial.user_attrs.get("ended", 0))
        if ended < self._plan.began:
            return
        bisect.insort(self._recent, (ended, trial.number, trial), key=lambda entry: entry[:2])
        if self.mistake is None and "mistake" in trial.user_attrs:
            self.mistake = UserError(*trial.user_attrs["mistake"])


def bracket_of(trial: FrozenTrial, halving: Promotion) -> int:
    """The bracket that a trial began in; by its number, if it began without any."""
    return int(trial.user_attrs.get(BRACKET, halving.bracket(trial.number)))


def superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of failed trials that were tried again under another number."""
    return {int(trial.user_attrs[RETRY_OF]) for trial in trials if RETRY_OF in trial.user_attrs}


def standing(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: all but those tried again under another number."""
    gone = superseded(trials)
    return [trial for trial in trials if trial.number not in gone] if gone else list(trials)


def to_retry(which: str | int | Sequence[int], trials: Sequence[FrozenTrial]) -> list[int]:
    """The numbers of the failed trials that ``sweep.retry`` names.

    Args:
        which: ``failed`` for all of them, or numbers. A trial that was tried again is named by either number.

    Raises:
        UserError: There is no such trial, or it has not failed.
    """
    if which == "failed":
        return [trial.number for trial in standing(trials) if trial.state is TrialState.FAIL]
    numbers = [which] if isinstance(which, int) else [int(number) for number in which]
    return sorted({_last_attempt(number, trials) for number in numbers})


def _last_attempt(number: int, trials: Sequence[FrozenTrial]) -> int:
    """The number under which a failed trial was last tried."""
    later = {int(trial.user_attrs[RETRY_OF]): trial.number for trial in trials if RETRY_OF in trial.user_attrs}
    last = number
    while last in later:
        last = later[last]
    if last == number and (number >= len(trials) or trials[number].state is not TrialState.FAIL):
        failed = [str(trial.number) for trial in standing(trials) if trial.state is TrialState.FAIL]
        raise UserError(
            f"sweep.retry={number}: trial {number} has not failed",
            f"failed are {', '.join(failed)}" if failed else "no trial of the study has failed",
        )
    return last
