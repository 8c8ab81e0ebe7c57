"""Samplers and pruners by name: every shipped file builds, and what does not fit is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deepfake.errors import UserError
from deepfake.sweeping.callbacks import Objective
from deepfake.sweeping.samplers import PRUNERS, SAMPLERS, check_choice, create_pruner, create_sampler
from deepfake.sweeping.search_space import parse_space

SWEEPS = Path(__file__).parents[2] / "sweeps"
FINITE = parse_space({"a": "choice(1,2)", "b": "range(0,3)"}, [], {})
CONTINUOUS = parse_space({"a": "interval(0,1)"}, [], {})
ONE = [Objective("m")]


def settings(group: str, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((SWEEPS / group / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_a_file_that_builds(name: str) -> None:
    create_sampler(settings("sampler", name), FINITE, 0, 0)


@pytest.mark.parametrize("name", sorted(set(PRUNERS) - {"threshold"}))
def test_every_pruner_is_a_file_that_builds(name: str) -> None:
    create_pruner(settings("pruner", name))


def test_a_threshold_pruner_needs_a_threshold() -> None:
    create_pruner({**settings("pruner", "threshold"), "lower": 0.5})


def test_a_class_that_a_config_spells_out_is_not_imported() -> None:
    with pytest.raises(UserError, match="does not exist"):
        create_sampler({"name": "os.system"}, FINITE, 0, 0)


def test_an_argument_that_optuna_lacks_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'n_startup_trials'"):
        create_sampler({"name": "tpe", "n_start_trials": 3}, FINITE, 0, 0)


def test_a_value_that_optuna_refuses_is_told() -> None:
    with pytest.raises(UserError, match="refuses"):
        create_pruner({"name": "percentile", "percentile": 200})


def test_a_grid_knows_its_size() -> None:
    assert check_choice({"name": "grid"}, {"name": "none"}, FINITE, ONE) == 6


@pytest.mark.parametrize("name", ["grid", "bruteforce"])
def test_a_continuous_space_has_no_grid(name: str) -> None:
    with pytest.raises(UserError, match="is continuous"):
        check_choice({"name": name}, {"name": "none"}, CONTINUOUS, ONE)


def test_pruning_takes_one_objective() -> None:
    with pytest.raises(UserError, match="pruner=asha takes one objective"):
        check_choice({"name": "tpe"}, settings("pruner", "asha"), FINITE, [*ONE, Objective("n")])


def test_the_next_trial_draws_from_another_seed() -> None:
    first, second = (create_sampler({"name": "random"}, FINITE, 0, begun) for begun in (0, 1))
    assert first._rng.rng.random() != second._rng.rng.random()  # type: ignore[attr-defined]
