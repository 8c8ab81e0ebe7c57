"""The ``sweep.*`` keys: types, ranges, and what belongs together."""

from __future__ import annotations

from typing import Any

import pytest

from deepfake.errors import UserError
from deepfake.sweeping.options import join_sweeper_keys, load_options, meant, parse_seconds, sweeper_space


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400), (5, 5)])
def test_times(text: str | float, seconds: float) -> None:
    assert parse_seconds(text, "k") == seconds


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"n_trials": 0}, "sweep.n_trials=0 is out of range"),
        ({"n_trials": "many"}, "sweep.n_trials='many' has the wrong type"),
        ({"n_jobs": True}, "wrong type"),
        ({"n_trails": 3}, "unknown key 'sweep.n_trails'"),
        ({"timeout": "soon"}, "sweep.timeout='soon' is not a time"),
        ({"trial_timeout": 0}, "sweep.trial_timeout=0 is not a time"),
        ({"direction": "up"}, "sweep.direction='up' is not a choice"),
        ({"objective": ["a", "b"], "direction": ["maximize", "minimize", "minimize"]}, "does not match"),
        ({"objective": ["a", "a"]}, "names a metric twice"),
        ({"report": "all"}, "sweep.report='all' is not a choice"),
    ],
)
def test_mistakes_are_told(node: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        load_options(node)
    assert told in caught.value.message


def test_a_trial_may_take_forever_unless_said_otherwise() -> None:
    assert [load_options(node).trial_timeout_seconds for node in ({}, {"trial_timeout": "2m"})] == [None, 120.0]


def test_a_misspelt_key_names_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        load_options({"form": "other"})
    assert "sweep.from" in caught.value.hint


def test_from_is_understood() -> None:
    assert load_options({"from": "other"}).source == "other"


def test_one_direction_serves_all_objectives() -> None:
    assert [item.maximize for item in load_options({"objective": ["a", "b"], "direction": "minimize"}).objectives] == [
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("described", "text"),
    [
        ({"type": "int", "low": 1, "high": 5}, "interval(1,5)"),
        ({"type": "int", "low": 1, "high": 9, "step": 2}, "range(1,10,2)"),
        ({"type": "float", "low": 0, "high": 1}, "interval(0.0,1.0)"),
        ({"type": "float", "low": 0.1, "high": 1, "log": True}, "tag(log,interval(0.1,1.0))"),
        ({"type": "float", "low": 0, "high": 1, "step": 0.5}, "range(0,1.25,step=0.5)"),
        ({"type": "categorical", "choices": ["a", 1, True, None]}, "choice(a,1,true,null)"),
    ],
)
def test_the_older_search_space_is_read(described: dict[str, Any], text: str) -> None:
    assert sweeper_space({"search_space": {"k": described}}) == {"k": text}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("custom_search_space", "app.configure", "sweep.params"),
        ("max_failure_rate", 0.5, "sweep.max_failures"),
        ("storag", "x", "did you mean 'sweep.storage'"),
        ("pruner", "asha", "pruner"),
    ],
)
def test_what_has_no_counterpart_names_the_key_that_does_it(key: str, value: Any, told: str) -> None:
    with pytest.raises(UserError) as caught:
        join_sweeper_keys({}, {key: value}, [])
    assert told in caught.value.hint


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("cmaes", "cmaes"),
        ({"_target_": "optuna.samplers.NSGAIISampler"}, "nsga2"),
        ({"_target_": "optuna.samplers.CmaEsSampler"}, "cmaes"),
        ({"seed": 3}, "tpe"),
    ],
)
def test_a_sampler_is_known_by_its_class(value: Any, name: str) -> None:
    joined, _ = join_sweeper_keys({}, {"sampler": value}, [])
    assert joined["sampler"]["name"] == name


def test_a_samplers_seed_is_the_sweeps() -> None:
    joined, _ = join_sweeper_keys({}, {"sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 7}}, [])
    assert load_options(joined).seed == 7


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("sweep.study_name", "sweep.name"),
        ("hydra.sweeper.n_trails", None),
        ("hydra.sweeper.timeout", "sweep.timeout"),
        ("sweep.metric", "sweep.objective"),
        ("sweep.nonsense", None),
    ],
)
def test_optunas_words_name_ours(key: str, named: str | None) -> None:
    assert meant(key) == (named and f"did you mean '{named}'?")
