"""Overrides as they are typed, taken apart."""

from __future__ import annotations

import pytest

from deepfake.options import overrides_by_key, split_override


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [("a.b=1", "a.b", "1"), ("++a=b=c", "a", "b=c"), ("~a", "a", ""), ("a=", "a", ""), ("a@b=c", "a@b", "c")],
)
def test_an_override_is_a_key_and_what_was_typed_behind_it(text: str, key: str, value: str) -> None:
    assert split_override(text) == (key, value)


def test_of_two_values_the_later_counts_and_what_gives_none_is_left_out() -> None:
    assert overrides_by_key(["a=1", "b=2", "~c", "+a=3"]) == {"a": "3", "b": "2"}
