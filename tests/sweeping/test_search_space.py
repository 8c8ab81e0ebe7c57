"""Hydra's grammar to distributions, the points they make, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from deepfake.errors import UserError
from deepfake.sweeping.search_space import all_points, count_points, example_points, parse_space, to_text
from tests import PROJECT


def parsed(text: object) -> BaseDistribution:
    return parse_space({"k": text}, [], {})[0].distribution


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("choice(16,32)", CategoricalDistribution([16, 32])),
        ("a,b", CategoricalDistribution(["a", "b"])),
        ("choice(true,false)", CategoricalDistribution([True, False])),
        ([64, 128], CategoricalDistribution([64, 128])),
        ("choice(null,0.65,0.8)", CategoricalDistribution([None, 0.65, 0.8])),
        ([None, 0.65], CategoricalDistribution([None, 0.65])),
        ("choice([0.2,0.7],[0.3,null])", CategoricalDistribution(["[0.2,0.7]", "[0.3,null]"])),
        ("choice(null)", CategoricalDistribution([None])),
        ("range(1,5)", IntDistribution(1, 4)),
        ("range(16,65,16)", IntDistribution(16, 64, step=16)),
        ("range(0.0,0.5,0.25)", FloatDistribution(0.0, 0.25, step=0.25)),
        ("interval(0,1)", FloatDistribution(0.0, 1.0)),
        ("int(interval(1,8))", IntDistribution(1, 8)),
        ("tag(log, interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("tag(log, int(interval(16,64)))", IntDistribution(16, 64, log=True)),
        (3, CategoricalDistribution([3])),
    ],
)
def test_each_form_of_the_grammar(text: object, expected: BaseDistribution) -> None:
    assert parsed(text) == expected


@pytest.mark.parametrize("file", sorted((PROJECT / "sweeps" / "search").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_space_that_comes_along_can_be_read(file: Path) -> None:
    params = yaml.safe_load(file.read_text())["sweep"].get("params") or {}
    assert {one.key for one in parse_space(params, [], {})} == params.keys()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("interval(2,1)", "upside down"),
        ("interval(1,1)", "upside down or empty"),
        ("range(5,1)", "upside down"),
        ("tag(log, interval(0,1))", "logarithmic from 0"),
        ("tag(lgo, interval(1,2))", "tag 'lgo'"),
        ("tag(log, range(1,9,2))", "step and is logarithmic"),
        ("tag(lgo, choice(1,2))", "tag 'lgo'"),
        ("tag(log, choice(1,2))", "logarithmic choice"),
        ("choice(1,1)", "or one twice"),
        ("glob(*)", "is a pattern"),
        ("choice(", "cannot be read"),
    ],
)
def test_what_is_no_space_is_told(text: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(text)
    assert told in caught.value.message


def test_the_command_line_wins_over_the_file() -> None:
    override = OverridesParser.create().parse_override("lr=interval(0,1)")
    (parameter,) = parse_space({"lr": "choice(1,2)"}, [override], {})
    assert parameter.distribution == FloatDistribution(0.0, 1.0)


def test_a_condition_on_a_fixed_key_is_settled_at_once() -> None:
    params = {
        "a": {"space": "choice(1,2)", "when": {"model": "x"}},
        "b": {"space": "choice(1,2)", "when": {"model": "y"}},
    }
    (parameter,) = parse_space(params, [], {"model": "x"})
    assert (parameter.key, dict(parameter.when)) == ("a", {})


def test_a_condition_on_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'model'"):
        parse_space({"a": {"space": "choice(1,2)", "when": {"modle": "x"}}}, [], {"model": "x"})


CONDITIONAL = {
    "depth": {"space": "range(1,3)", "when": {"model": ["vit"]}},
    "model": "choice(lstm,vit)",
    "hidden": {"space": [64, 128], "when": {"model": "lstm"}},
}


def test_all_points_leave_out_what_does_not_apply() -> None:
    points = all_points(parse_space(CONDITIONAL, [], {})) or []
    assert points == [
        {"model": "lstm", "hidden": 64},
        {"model": "lstm", "hidden": 128},
        {"model": "vit", "depth": 1},
        {"model": "vit", "depth": 2},
    ]


def test_a_continuous_space_has_no_list_of_points() -> None:
    assert all_points(parse_space({"k": "interval(0,1)"}, [], {})) is None


def test_examples_meet_every_condition() -> None:
    keys = {key for point in example_points(parse_space(CONDITIONAL, [], {}), []) for key in point}
    assert keys == {"model", "depth", "hidden"}


@pytest.mark.parametrize(("value", "text"), [(None, "null"), (True, "true"), (1e-05, "1e-05"), ("a", "a"), (16, "16")])
def test_values_in_override_grammar(value: object, text: str) -> None:
    assert to_text(value) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("space", "count"),
    [
        ({"x": "range(0,8)", "kind": "choice(a,b)"}, 16),
        ({"kind": "choice(a,b)", "x": "range(0,3)", "y": {"space": "range(0,3)", "when": {"kind": "b"}}}, 12),
        ({"x": "interval(0.0,1.0)"}, None),
    ],
)
def test_points_are_counted(space: dict[str, Any], count: int | None) -> None:
    parameters = parse_space(space, [], {})
    assert count_points(parameters) == count
    assert count is None or len(all_points(parameters) or ()) == count


def test_a_space_of_very_many_points_is_not_counted_out() -> None:
    assert count_points(parse_space(dict.fromkeys("abc", "range(0,100000)"), [], {})) is None
