"""What the pruner says of a trial at work, also where Optuna has it say nothing.

Of several objectives the first alone is reported and judged by. Of a point that is run over several seeds, each run is
judged by its own reports, against what the other points' first runs reported. Knows Optuna's trials and storages.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from deepfake.compat import study_storage, trial_id, with_storage
from deepfake.sweeping.views import OF_PRUNERS, reported_trials


def record(trial: optuna.Trial, step: int, value: float, repeat: int = 0) -> None:
    """Write down what a trial reports.

    Args:
        step: Epochs done, of this run.
        value: Of the first objective.
        repeat: Which of the point's runs; the first one's reports are the trial's own.
    """
    storage = study_storage(trial.study)
    if repeat:
        storage.set_trial_user_attr(trial_id(trial), f"{_prefix(repeat)}{step}", value)
    elif len(trial.study.directions) > 1:
        storage.set_trial_intermediate_value(trial_id(trial), step, value)
    else:
        trial.report(value, step)


def reports_of(facts: Mapping[str, Any], repeat: int) -> dict[int, float]:
    """What one of a trial's runs but the first has reported, by step, as it is among the trial's facts."""
    prefix = _prefix(repeat)
    return {int(key.removeprefix(prefix)): float(v) for key, v in facts.items() if key.startswith(prefix)}


def should_prune(trial: optuna.Trial, repeat: int = 0) -> bool:
    """Whether the trial's pruner wants it to end, by what was recorded."""
    study = trial.study
    if not repeat and len(study.directions) == 1:
        return trial.should_prune()
    judged = _Judged(study_storage(study), trial.number, repeat)
    single = with_storage(study, cast(BaseStorage, judged), study.directions[:1])
    return bool(study.pruner.prune(single, judged.get_trial(trial_id(trial))))


class _Judged:
    """A storage whose trials have one objective, one of them with the reports of one of its runs."""

    def __init__(self, storage: Any, number: int, repeat: int) -> None:
        self._storage, self._number, self._repeat = storage, number, repeat

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = [self._shown(trial) for trial in reported_trials(self._storage, study_id)]
        trials = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_n_trials(self, study_id: int, state: Container[TrialState] | TrialState | None = None) -> int:
        states = (state,) if isinstance(state, TrialState) else state
        return len(self.get_all_trials(study_id, deepcopy=False, states=states))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._shown(self._storage.get_trial(trial_id))

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return BaseStorage.get_best_trial(cast(BaseStorage, self), study_id)

    def get_study_directions(self, study_id: int) -> list[Any]:
        return list(self._storage.get_study_directions(study_id)[:1])

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        # The rungs of each run are its own.
        self._storage.set_trial_system_attr(trial_id, f"{_prefix(self._repeat)}{key}" if self._repeat else key, value)

    def _shown(self, trial: FrozenTrial) -> FrozenTrial:
        shown = copy.copy(trial)
        if trial.state is TrialState.COMPLETE:
            shown.values = trial.values[:1]
        if trial.number == self._number and self._repeat:
            prefix = _prefix(self._repeat)
            attributes = trial.system_attrs.items()
            others = {key: value for key, value in attributes if not key.startswith(OF_PRUNERS)}
            own = {key.removeprefix(prefix): value for key, value in attributes if key.startswith(prefix)}
            shown.intermediate_values = reports_of(trial.user_attrs, self._repeat)
            shown.system_attrs = {**others, **own}
        return shown


def _prefix(repeat: int) -> str:
    return f"repeat {repeat}: "
