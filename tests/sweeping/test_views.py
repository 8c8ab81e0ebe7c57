"""What samplers and pruners see of a study: the trials that are shown, over the study's own storage."""

from __future__ import annotations

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.samplers import QMCSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from deepfake.compat import study_storage, trial_id
from deepfake.sweeping.views import View, as_begun


@pytest.fixture
def study() -> optuna.Study:
    """Three completed trials of three steps, the later the better."""
    study = optuna.create_study(direction="maximize", pruner=SuccessiveHalvingPruner(1, 2), study_name="s")
    for value in range(3):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        for step in (1, 2, 3):
            trial.report(float(value), step)
            trial.should_prune()
        study.tell(trial, float(value))
    return study


def shown_without_the_best(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.number != 2]


def view_of(study: optuna.Study, pruner: optuna.pruners.BasePruner) -> View:
    return View(study, lambda: shown_without_the_best(study), RandomSampler(seed=0), pruner)


def test_every_way_of_asking_shows_the_same_trials(study: optuna.Study) -> None:
    seen = view_of(study, MedianPruner()).study
    numbers = [trial.number for trial in seen.trials]
    assert numbers == [trial.number for trial in seen.get_trials(states=(TrialState.COMPLETE,))] == [0, 1]
    assert (seen.best_trial.number, study.best_trial.number) == (1, 2)


def test_what_is_written_goes_to_the_study(study: optuna.Study) -> None:
    seen = view_of(study, MedianPruner()).study
    trial = optuna.Trial(seen, trial_id(study.ask()))
    trial.suggest_float("x", 0, 1)
    trial.report(0.5, 1)
    assert study.trials[3].intermediate_values == {1: 0.5}
    assert study.trials[3].params == trial.params


@pytest.mark.parametrize(
    "pruner",
    [
        SuccessiveHalvingPruner(1, 2),
        HyperbandPruner(1, 2, 2),
        MedianPruner(n_startup_trials=1),
    ],
)
def test_a_pruner_judges_by_what_it_is_shown(study: optuna.Study, pruner: optuna.pruners.BasePruner) -> None:
    seen = view_of(study, pruner).study
    # Better than all that is shown, worse than the one that is not.
    trial = optuna.Trial(seen, trial_id(study.ask()))
    verdicts = []
    for step in (1, 2, 3):
        trial.report(1.5, step)
        verdicts.append(trial.should_prune())
    assert not any(verdicts)


def test_a_trial_as_begun_has_its_point_and_no_results(study: optuna.Study) -> None:
    ended = study.trials[2]
    begun = as_begun(ended)
    assert (begun.state, begun.params, begun.number) == (TrialState.RUNNING, ended.params, 2)
    assert (begun.values, begun.intermediate_values, begun.system_attrs) == (None, {}, {})
    assert ended.state is TrialState.COMPLETE
    assert ended.system_attrs


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_draw_that_is_cut_short_leaves_no_trace(study: optuna.Study) -> None:
    sampler = QMCSampler(seed=0, scramble=True, warn_independent_sampling=False)
    for whole in (False, True):
        view = View(study, lambda: study.get_trials(deepcopy=False), sampler, MedianPruner())
        trial = optuna.Trial(view.study, trial_id(study.ask()))
        view.hold()
        first = trial.suggest_float("x", 0, 1)
        assert trial.relative_params == {"x": first}
        if whole:
            view.let_go()
    # The sequence was begun again: the first draw was never whole.
    assert study.trials[3].params == study.trials[4].params
    assert list(study_storage(study).get_study_system_attrs(study._study_id).values()) == [0]
