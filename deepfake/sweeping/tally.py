"""How far a study and its trials have come, counted without looking at everything each time.

Knows Optuna's trials and what is kept with them; changes nothing.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from deepfake.errors import UserError

#: On a trial: the number of the failed one that it tries again.
RETRY_OF = "retry_of"


class Tally:
    """Which trials have ended, each looked at once: what has ended does not change.

    Args:
        began: Only what ended from then on, in seconds since the epoch, counts as this start's.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        # All trials below this place have ended and are counted; beyond it some are.
        self._first_open = 0
        self._beyond: set[int] = set()
        self._recent: list[tuple[float, int, FrozenTrial]] = []
        self._known = 0
        self.mistake: UserError | None = None
        #: The numbers of failed trials that were tried again under another number.
        self.superseded: set[int] = set()

    def count(self, trials: Sequence[FrozenTrial]) -> int:
        """How many of the study's trials, all of them in order, have ended and are not tried again."""
        for trial in trials[self._known :]:
            if RETRY_OF in trial.user_attrs:
                self.superseded.add(int(trial.user_attrs[RETRY_OF]))
        self._known = len(trials)
        for place in range(self._first_open, len(trials)):
            if place not in self._beyond and trials[place].state.is_finished():
                self._beyond.add(place)
                self._look_at(trials[place])
        while self._first_open in self._beyond:
            self._beyond.remove(self._first_open)
            self._first_open += 1
        return self._first_open + len(self._beyond) - len(self.superseded)

    def open(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those that have not ended."""
        return [trial for trial in trials[self._first_open :] if not trial.state.is_finished()]

    def failures_in_a_row(self) -> list[FrozenTrial]:
        """The latest of this start's trials, as far back as they failed, in the order in which they ended."""
        row: list[FrozenTrial] = []
        for _, _, trial in reversed(self._recent):
            if trial.state is not TrialState.FAIL:
                break
            row.append(trial)
        return row[::-1]

    def _look_at(self, trial: FrozenTrial) -> None:
        ended = float(trial.user_attrs.get("ended", 0))
        if ended < self._began:
            return
        bisect.insort(self._recent, (ended, trial.number, trial), key=lambda entry: entry[:2])
        if self.mistake is None and "mistake" in trial.user_attrs:
            self.mistake = UserError(*trial.user_attrs["mistake"])


def steps_of(trial: FrozenTrial) -> int:
    """How far a trial has come, in epochs that it told of."""
    return max(len(trial.intermediate_values), int(trial.user_attrs.get("progress", 0)))


def superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of failed trials that were tried again under another number."""
    return {int(trial.user_attrs[RETRY_OF]) for trial in trials if RETRY_OF in trial.user_attrs}


def standing(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: all but those tried again under another number."""
    gone = superseded(trials)
    return [trial for trial in trials if trial.number not in gone] if gone else list(trials)
