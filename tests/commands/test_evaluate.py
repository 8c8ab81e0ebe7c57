"""Keys of evaluate's own, and suites."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepfake.commands.evaluate import _check_names, read_request, read_suite
from deepfake.errors import UserError
from deepfake.runs.saved_config import read_changes


def test_own_keys_are_parted_from_a_configs() -> None:
    request = read_request(["dataset=images", "split=all", "min_coverage=0.5", "suite=a=b.yaml"])
    assert (request.split, request.suite) == ("all", "a=b.yaml")
    assert request.overrides == ["dataset=images", "evaluation.min_coverage=0.5"]


def test_a_suite_in_a_file_finds_data_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text("- {dataset: images, root: faces, name: mine, split: all}\n- {dataset: dfdc, root: /b}\n")
    first, second = read_suite(str(file), "test")
    assert first == (["dataset=images", f"dataset.root={tmp_path / 'faces'}", "dataset.name=mine"], "all")
    assert second == (["dataset=dfdc", "dataset.root=/b"], "test")


def test_two_data_sets_of_one_name_are_told_how_to_differ() -> None:
    target: Any = SimpleNamespace(config=SimpleNamespace(dataset=SimpleNamespace(name="images")), split="test")
    with pytest.raises(UserError, match="two data sets of the suite are called 'images'") as caught:
        _check_names([target, target])
    assert (
        caught.value.hint == "give one a name of its own, {dataset: images, root: /a, name: images_2}, or another split"
    )


def test_a_suite_in_a_line() -> None:
    assert read_suite("[{dataset: demo, limit: 4}]", "val") == [(["dataset=demo", "dataset.limit=4"], "val")]


def test_a_suites_values_survive_the_override_grammar() -> None:
    ((overrides, _),) = read_suite('[{dataset: table, root: "/a b/it\'s", columns: {label: is fake}}]', "test")
    config = read_changes(overrides).config.dataset
    assert config.root == "/a b/it's"
    assert config.columns == {"label": "is fake"}


@pytest.mark.parametrize("text", ["nowhere.yaml", "[]", "[{root: /a}]", "[1, 2]", "[{dataset: a"])
def test_what_is_no_suite_is_told(text: str) -> None:
    with pytest.raises(UserError):
        read_suite(text, "test")
