"""The ``sweep.*`` keys: types, ranges, and what belongs together."""

from __future__ import annotations

from typing import Any

import pytest

from deepfake.errors import UserError
from deepfake.sweeping.options import load_options, parse_seconds


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
