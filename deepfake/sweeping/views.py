"""A study as a sampler or a pruner is to see it: its trials as somebody shows them, over the study's own storage.

Knows Optuna's studies and storages. Which trials are shown, and as what, is said by whoever makes a view.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Sequence
from datetime import datetime
from typing import Any, cast

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from deepfake.compat import study_storage, with_storage
from deepfake.sweeping.facts import PAUSED_AT

#: Gives the trials that are shown, in the order of their numbers.
Shown = Callable[[], Sequence[FrozenTrial]]
#: Successive halving writes the values that a trial had at its rungs into the trial.
OF_PRUNERS = "completed_rung_"
#: What became known of a trial after it was drawn begins like this.
_OF_RESULTS = (OF_PRUNERS, "constraints")


class View:
    """What one trial's sampler and pruner see of a study, and write to it.

    Args:
        study: What lies beneath.
        shown: Asked whenever they look; it may change no trial of the study, but show copies.
        sampler: Draws the trial.
        pruner: Judges it.

    Attributes:
        study: For :class:`optuna.Trial`: reports and single trials are the study's own.
    """

    def __init__(self, study: optuna.Study, shown: Shown, sampler: BaseSampler, pruner: BasePruner) -> None:
        self._storage = _Storage(study_storage(study), shown)
        self.study = with_storage(study, cast(BaseStorage, self._storage))
        self.study.sampler, self.study.pruner = sampler, pruner

    def hold(self) -> None:
        """From now on keep back the attributes that are set: a draw that is cut short leaves no trace."""
        self._storage.held = []

    def let_go(self) -> None:
        """Write what was kept back."""
        held, self._storage.held = self._storage.held, None
        for write in held or ():
            write()


class _Storage:
    """A storage with other trials in its lists; all else is the storage's own."""

    def __init__(self, storage: BaseStorage, shown: Shown) -> None:
        self._storage, self._shown = storage, shown
        self._study_attrs: dict[str, Any] = {}
        self.held: list[Callable[[], None]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self._shown() if states is None or trial.state in states]
        if len(self._storage.get_study_directions(study_id)) > 1:
            # Samplers would rank pruned trials by the one objective that was reported, and refuse to.
            trials = [_unreported(trial) for trial in trials]
        return copy.deepcopy(trials) if deepcopy else trials

    def reported(self) -> Sequence[FrozenTrial]:
        """The trials with all that they reported."""
        return self._shown()

    def get_n_trials(self, study_id: int, state: Container[TrialState] | TrialState | None = None) -> int:
        states = (state,) if isinstance(state, TrialState) else state
        return len(self.get_all_trials(study_id, deepcopy=False, states=states))

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        # The base class's looks through the list above.
        return BaseStorage.get_best_trial(cast(BaseStorage, self), study_id)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._storage.set_trial_system_attr(trial_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        # What a sampler counts in the study goes on from here before it is written.
        self._study_attrs[key] = value
        self._write(lambda: self._storage.set_study_system_attr(study_id, key, value))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return {**self._storage.get_study_system_attrs(study_id), **self._study_attrs}

    def _write(self, write: Callable[[], None]) -> None:
        if self.held is None:
            write()
        else:
            self.held.append(write)


def as_pruned(trial: FrozenTrial) -> FrozenTrial:
    """A paused trial for those that know of none: one that was pruned when it was paused."""
    pruned = copy.copy(trial)
    pruned.state = TrialState.PRUNED
    pruned.datetime_complete = datetime.fromtimestamp(trial.user_attrs[PAUSED_AT])
    return pruned


def as_failed(trial: FrozenTrial) -> FrozenTrial:
    """A trial that was ended before it began, for those that learn from what was tried."""
    failed = copy.copy(trial)
    failed.state, failed.values = TrialState.FAIL, None
    return failed


def reported_trials(storage: Any, study_id: int) -> Sequence[FrozenTrial]:
    """The trials that a storage shows, be it a view's or a study's own, with what they reported."""
    if isinstance(storage, _Storage):
        return storage.reported()
    trials: list[FrozenTrial] = storage.get_all_trials(study_id, deepcopy=False)
    return trials


def _unreported(trial: FrozenTrial) -> FrozenTrial:
    if not trial.intermediate_values:
        return trial
    other = copy.copy(trial)
    other.intermediate_values = {}
    return other


def as_begun(trial: FrozenTrial) -> FrozenTrial:
    """A trial as it was before its first report: the point it tries, and what its sampler noted of it."""
    begun = copy.copy(trial)
    begun.state = TrialState.RUNNING
    begun.values, begun.intermediate_values, begun.datetime_complete = None, {}, None
    begun.system_attrs = {key: value for key, value in trial.system_attrs.items() if not key.startswith(_OF_RESULTS)}
    return begun
