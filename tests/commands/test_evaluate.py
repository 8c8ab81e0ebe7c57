"""Keys of evaluate's own, and suites."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deepfake.commands.evaluate import _check_names, read_request
from deepfake.errors import UserError


def test_own_keys_are_parted_from_a_configs() -> None:
    request = read_request(["dataset=images", "split=all", "min_coverage=0.5", "suite=a=b.yaml"])
    assert (request.split, request.suite) == ("all", "a=b.yaml")
    assert request.overrides == ["dataset=images", "evaluation.min_coverage=0.5"]


def test_where_the_sets_of_a_suite_lie_is_parted_from_the_rest() -> None:
    request = read_request(["suite=crossdataset", "suite.roots.celebdf=/a=b", "suite.root=/data", "split=val"])
    assert (request.roots, request.data, request.overrides) == ({"celebdf": "/a=b"}, "/data", [])
    with pytest.raises(UserError, match="say where the sets of a suite lie"):
        read_request(["suite.root=/data"])


def test_two_data_sets_of_one_name_are_told_how_to_differ() -> None:
    target: Any = SimpleNamespace(config=SimpleNamespace(dataset=SimpleNamespace(name="images")), split="test")
    with pytest.raises(UserError, match="two data sets of the suite are called 'images'") as caught:
        _check_names([target, target])
    assert (
        caught.value.hint == "give one a name of its own, {dataset: images, root: /a, name: images_2}, or another split"
    )
