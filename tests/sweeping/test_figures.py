"""The figures of a study: drawn for what there is, left out for what there is not."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from deepfake.sweeping.callbacks import Objective
from deepfake.sweeping.results import draw_study
from deepfake.sweeping.search_space import parse_space
from deepfake.sweeping.storage import locate
from deepfake.sweeping.study_plan import StudyPlan

SPACE = parse_space(
    {"model": "choice(a,b)", "lr": "tag(log,interval(0.1,1))", "d": {"space": "range(1,4)", "when": {"model": "b"}}},
    [],
    {},
)


def plan(folder: Path, objectives: int = 1) -> StudyPlan:
    aims = [Objective(f"m{number}") for number in range(objectives)]
    return StudyPlan("s", folder, locate("journal", folder), SPACE, aims, [], 3, {"name": "tpe"}, {"name": "none"})


def trial(number: int, values: list[float] | None, **params: object) -> FrozenTrial:
    kinds = {item.key: item.distribution for item in SPACE if item.key in params}
    state = TrialState.COMPLETE if values else TrialState.FAIL
    made = create_trial(state=state, values=values, params=dict(params), distributions=kinds)
    made.number = number
    return made


def test_conditional_keys_and_failures_are_drawn(tmp_path: Path) -> None:
    trials = [trial(0, [0.5], model="a", lr=0.2), trial(1, [0.6], model="b", lr=0.5, d=2), trial(2, None)]
    names = {path.stem for path in draw_study(trials, plan(tmp_path), tmp_path)}
    assert names == {"history", "timeline", "parallel_coordinates", "importance"}


def test_equal_values_are_drawn(tmp_path: Path) -> None:
    trials = [trial(number, [0.5], model="a", lr=0.2) for number in range(2)]
    assert (tmp_path / "parallel_coordinates.png") in draw_study(trials, plan(tmp_path), tmp_path)


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    trials = [trial(0, [0.5, 1.0], model="a", lr=0.2), trial(1, [0.6, 0.5], model="a", lr=0.3)]
    assert (tmp_path / "pareto_front.png") in draw_study(trials, plan(tmp_path, 2), tmp_path)


def test_nothing_completed_is_nothing_drawn(tmp_path: Path) -> None:
    assert draw_study([trial(0, None)], plan(tmp_path), tmp_path) == []


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
