"""Where a run comes from, and how two such differ."""

from __future__ import annotations

import copy
import json

import pandas as pd
import pytest
import torch

from deepfake import __version__
from deepfake.tracking.provenance import (
    FORMAT,
    UNKNOWN,
    DataChanges,
    collect,
    compare_manifests,
    compare_worlds,
    package_versions,
)


def test_everything_is_plain_json() -> None:
    found = collect(seeds={"seed": 1}, data={"manifest": "abc"}, device="cpu")
    assert json.loads(json.dumps(found)) == found


def test_names_what_a_result_depends_on() -> None:
    found = collect(seeds={"seed": 1}, data={"manifest": "abc"}, device="cpu")
    assert found["format"] == FORMAT
    assert found["version"] == __version__
    assert found["seeds"] == {"seed": 1}
    assert found["data"] == {"manifest": "abc"}
    assert found["machine"]["device"] == "cpu"
    assert found["machine"]["cores"] >= 1
    assert found["command"]


def test_versions_include_what_is_needed_indirectly() -> None:
    versions = package_versions()
    # A wheel of the index may leave the kind of build out of its version.
    assert torch.__version__.startswith(versions["torch"])
    assert "sqlalchemy" in versions


def test_secrets_of_the_environment_stay_out(monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    assert "hunter2" not in json.dumps(collect(seeds={}, data={}, device="cpu"))


WORLD = {
    "git": {"commit": "a" * 40, "diff_sha256": None, "untracked": ["one.py"]},
    "packages": {"torch": "2.9", "numpy": "2.0"},
    "python": "3.11.1",
    "platform": "Linux",
    "machine": {"device": "cpu", "threads": 1, "cpu": "X", "gpus": [], "driver": None},
    "weights": {"backbone": "f" * 64},
    "environment": {},
}
ROWS = pd.DataFrame(
    {
        "sample_id": ["a", "b", "c"],
        "label": [0, 1, 1],
        "split": ["train", "train", "test"],
        "method": ["real", "swap", "swap"],
        "bytes": [10, 20, 30],
        "sha256": ["x", "y", "z"],
    }
)


def data(now: pd.DataFrame, then: pd.DataFrame = ROWS) -> DataChanges:
    return compare_manifests(then, now, ({"d": "/old"}, {"d": "/old"}))


def test_the_same_world_has_no_differences() -> None:
    rows, same = compare_worlds(WORLD, copy.deepcopy(WORLD))
    assert rows.empty
    assert same[0] == "2 packages"
    assert "first weights of the backbone" in same


@pytest.mark.parametrize(
    ("path", "value", "row"),
    [
        (("git", "commit"), "b" * 40, ["git commit", "a" * 12, "b" * 12]),
        (("git", "diff_sha256"), "c" * 64, ["uncommitted changes", "none", "diff " + "c" * 12]),
        (("git", "untracked"), ["two.py"], ["untracked files", "1, only here one.py", "1, only here two.py"]),
        (("packages", "torch"), "3.0", ["package torch", "2.9", "3.0"]),
        (("machine", "device"), "cuda:0", ["device", "cpu", "cuda:0"]),
        (("weights", "backbone"), None, ["first weights of the backbone", "f" * 12, UNKNOWN]),
        (("environment", "OMP_NUM_THREADS"), "4", ["OMP_NUM_THREADS", "unset", "4"]),
    ],
)
def test_each_difference_is_a_row(path: tuple[str, str], value: object, row: list[str]) -> None:
    now = copy.deepcopy(WORLD)
    now[path[0]][path[1]] = value  # type: ignore[index]
    rows, _ = compare_worlds(WORLD, now)
    assert rows.to_numpy().tolist() == [row]


def test_packages_that_came_or_went_are_told() -> None:
    rows, _ = compare_worlds(WORLD, {**WORLD, "packages": {"torch": "2.9", "pandas": "2.2"}})
    assert rows["what"].tolist() == ["package numpy", "package pandas"]
    assert rows["now"].tolist() == ["not installed", "2.2"]


def test_the_same_files_are_the_same_data_wherever_they_lie() -> None:
    found = compare_manifests(ROWS, ROWS, ({"d": "/old"}, {"d": "/new"}))
    assert found.same
    assert found.hashed == 3
    assert found.moved == {"d": ("/old", "/new")}


@pytest.mark.parametrize(
    ("column", "value", "change"),
    [
        ("sha256", "other", "another file of the same 20 bytes"),
        ("bytes", -1, "missing"),
        ("label", 0, "label 1 -> 0"),
        ("split", "val", "split train -> val"),
    ],
)
def test_a_row_that_changed_is_named(column: str, value: object, change: str) -> None:
    now = ROWS.copy()
    now.loc[1, column] = value
    if change == "missing":
        now.loc[1, "sha256"] = ""
    assert data(now).rows.to_numpy().tolist() == [["b", change]]


def test_rows_that_are_gone_or_new_are_named() -> None:
    now = ROWS.assign(sample_id=["a", "b", "d"])
    assert data(now).rows.to_numpy().tolist() == [["c", "missing"], ["d", "was not there then"]]


def test_without_a_digest_the_size_is_compared() -> None:
    then = ROWS.assign(sha256="")
    assert data(ROWS, then).same
    assert data(ROWS, then).hashed == 0
    found = data(ROWS.assign(bytes=[10, 20, 31]), then)
    assert found.rows["change"].tolist() == ["another file: 30 -> 31 bytes"]
