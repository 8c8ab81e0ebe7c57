"""Overrides as they are typed, taken apart."""

from __future__ import annotations

import pytest

from deepfake.errors import UserError
from deepfake.options import check, overrides_by_key, split_override
from deepfake.training.options import EvaluationOptions, switched


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [("a.b=1", "a.b", "1"), ("++a=b=c", "a", "b=c"), ("~a", "a", ""), ("a=", "a", ""), ("a@b=c", "a@b", "c")],
)
def test_an_override_is_a_key_and_what_was_typed_behind_it(text: str, key: str, value: str) -> None:
    assert split_override(text) == (key, value)


def test_of_two_values_the_later_counts_and_what_gives_none_is_left_out() -> None:
    assert overrides_by_key(["a=1", "b=2", "~c", "+a=3"]) == {"a": "3", "b": "2"}


@pytest.mark.parametrize("value", ["auto", "true", "false", True, False])
def test_a_switch_may_be_a_word_or_a_truth_value(value: str | bool) -> None:
    check(EvaluationOptions(probe=value), "evaluation")
    assert switched(value, auto=True) == (value not in ("false", False))
    assert switched(value, auto=False) == (value in ("true", True))


def test_a_switch_takes_no_other_word() -> None:
    with pytest.raises(UserError, match=r"evaluation.probe='on' is not a choice"):
        check(EvaluationOptions(probe="on"), "evaluation")
