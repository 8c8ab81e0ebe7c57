"""A difference is told with its likely causes, the most likely first; of what is the same nothing is told."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deepfake.runs.causes import ORDER, Cause, causes_table, edited_keys, find_causes
from deepfake.tracking.provenance import DataChanges, collect, compare_manifests
from tests.runs.making import whole_run

World = dict[str, Any]

WORLD: World = {
    "git": {"commit": "a" * 40, "diff": "", "diff_sha256": None, "untracked": []},
    "code": {"deepfake/models/heads/gru.py": "1", "deepfake/tracking/tables.py": "1", "deepfake/metrics.py": "1"},
    "packages": {"torch": "2.13.0", "timm": "1.0.20", "numpy": "2.0", "mlflow": "3.17.2", "av": "14.0"},
    "installed": {"torch": "2.13.0", "timm": "1.0.20", "numpy": "2.0", "mlflow": "3.17.2", "av": "14.0", "ruff": "1"},
    "python": "3.11.1",
    "platform": "Linux-5",
    "machine": {"device": "cpu", "threads": 1, "cpu": "X", "gpus": [], "driver": None, "host": "one"},
    "weights": {"backbone": "f" * 64, "head": "e" * 64},
    "seeds": {"seed": 0, "split_seed": 0},
    "environment": {},
    "command": "train.py",
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


def changed(**at: object) -> World:
    """The world with values exchanged, named ``section__key`` (``-`` and ``/`` cannot be written so)."""
    now = copy.deepcopy(WORLD)
    for name, value in at.items():
        section, _, key = name.partition("__")
        if key:
            now[section][key] = value
        else:
            now[section] = value
    return now


def packages(**versions: str) -> World:
    return changed(packages={**WORLD["packages"], **versions}, installed={**WORLD["installed"], **versions})


def data(now: pd.DataFrame) -> DataChanges:
    return compare_manifests(ROWS, now, ({}, {}))


def first(found: list[Cause]) -> tuple[str, str]:
    assert found, "nothing is blamed"
    return found[0].kind, found[0].text


CODE = "deepfake/models/heads/gru.py"
#: What was injected, what is told of the world and the data then, and the cause that must come first.
CASES: dict[str, tuple[Callable[[], list[Cause]], str, str]] = {
    "seed asked for": (lambda: find_causes(WORLD, changed(seeds__seed=1), changes={"seed": (0, 1)}), "seed", "0 -> 1"),
    "seed in the saved config": (lambda: find_causes(WORLD, changed(seeds__seed=7)), "seed", "seed 0 -> 7"),
    "seed of the splits": (lambda: find_causes(WORLD, changed(seeds__split_seed=2)), "seed", "dataset.split_seed 0"),
    "rate": (lambda: find_causes(WORLD, WORLD, changes={"optimizer.lr": (0.1, 0.2)}), "config", "optimizer.lr 0.1"),
    "config edited": (lambda: find_causes(WORLD, WORLD, edited={"head.hidden": ("16", "32")}), "config", "16 -> 32"),
    "file of the same size": (
        lambda: find_causes(WORLD, WORLD, data(ROWS.assign(sha256=["x", "other", "z"]))), "data", "1 files changed (b)",
    ),
    "file of another size": (
        lambda: find_causes(WORLD, WORLD, data(ROWS.assign(sha256=["x", "y", "o"], bytes=[10, 20, 31]))),
        "data", "1 files changed (c)",
    ),
    "file missing": (lambda: find_causes(WORLD, WORLD, data(ROWS.iloc[:2])), "data", "1 files missing (c)"),
    "file added": (
        lambda: find_causes(
            WORLD, WORLD, data(pd.concat([ROWS, ROWS.iloc[:1].assign(sample_id="new")], ignore_index=True))
        ),
        "data", "1 files added (new)",
    ),
    "label": (lambda: find_causes(WORLD, WORLD, data(ROWS.assign(label=[1, 1, 1]))), "data", "label 0 -> 1 (a)"),
    "split": (
        lambda: find_causes(WORLD, WORLD, data(ROWS.assign(split=["val", "train", "test"]))),
        "data", "split train -> val (a)",
    ),
    "first weights": (lambda: find_causes(WORLD, changed(weights__backbone="d" * 64)), "first weights", "backbone"),
    "device": (lambda: find_causes(WORLD, changed(machine__device="cuda:0")), "device", "cpu -> cuda:0"),
    "processes": (lambda: find_causes(WORLD, changed(environment={"WORLD_SIZE": "2"})), "processes", "1 -> 2"),
    "module edited": (lambda: find_causes(WORLD, changed(code={**WORLD["code"], CODE: "2"})), "code", CODE),
    "module added": (
        lambda: find_causes(WORLD, changed(code={**WORLD["code"], "deepfake/data/new.py": "2"})),
        "code", "deepfake/data/new.py",
    ),
    "torch": (lambda: find_causes(WORLD, packages(torch="2.12.0")), "package", "torch 2.13.0 -> 2.12.0"),
    "timm": (lambda: find_causes(WORLD, packages(timm="1.0.19", mlflow="3.18")), "package", "timm 1.0.20 -> 1.0.19"),
    "numpy": (lambda: find_causes(WORLD, packages(numpy="2.1", av="15.0")), "package", "numpy 2.0 -> 2.1"),
    "decoder": (lambda: find_causes(WORLD, packages(av="15.0")), "package", "av 14.0 -> 15.0"),
    "threads": (lambda: find_causes(WORLD, changed(machine__threads=4)), "processor threads", "1 -> 4"),
    "processor": (lambda: find_causes(WORLD, changed(machine__cpu="Y", platform="Linux-6")), "processor", "X -> Y"),
    "python": (lambda: find_causes(WORLD, changed(python="3.12.0")), "python", "3.11.1 -> 3.12.0"),
    "variable": (
        lambda: find_causes(WORLD, changed(environment={"CUBLAS_WORKSPACE_CONFIG": ":16:8"})),
        "environment variable", "unset -> :16:8",
    ),
    "GPU": (lambda: find_causes(WORLD, changed(machine__gpus=["H200"])), "GPU", "none -> H200"),
    "package that computes nothing": (lambda: find_causes(WORLD, packages(mlflow="3.16")), "other package", "mlflow"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_was_injected_comes_first(case: str) -> None:
    find, kind, text = CASES[case]
    told = first(find())
    assert told[0] == kind
    assert text in told[1]


def test_there_are_twenty_kinds_of_injection() -> None:
    assert len(CASES) >= 20


@pytest.mark.parametrize(
    "now",
    [
        WORLD,
        changed(git={"commit": "b" * 40, "diff": "x", "diff_sha256": "c", "untracked": ["notes.txt"]}),
        changed(command="deepfake reproduce once", machine__host="two"),
        {key: value for key, value in WORLD.items() if key != "installed"},
        changed(environment={"HF_HUB_OFFLINE": "1"}),
        changed(environment={"WORLD_SIZE": "1"}),
    ],
    ids=["same", "another commit of the same modules", "host", "nobody noted all packages", "offline", "one process"],
)
def test_nothing_is_blamed_where_nothing_computes_otherwise(now: World) -> None:
    assert find_causes(WORLD, now, data(ROWS)) == []


def test_a_process_compared_with_itself_blames_nothing() -> None:
    made = [collect(seeds={"seed": 0}, data={}, device="cpu", threads=1) for _ in range(2)]
    assert find_causes(*made) == []


def test_of_several_the_likelier_comes_first_and_each_once() -> None:
    now = changed(
        seeds__seed=1, machine__cpu="Y", machine__threads=2, code={**WORLD["code"], "deepfake/tracking/tables.py": "2"},
        packages={**WORLD["packages"], "torch": "2.12.0"}, installed={**WORLD["installed"], "torch": "2.12.0"},
        weights={"backbone": "0" * 64, "head": "0" * 64},
    )  # fmt: skip
    found = find_causes(WORLD, now, data(ROWS.assign(sha256=["x", "y", "o"])), {"seed": (0, 1)})
    assert [cause.kind for cause in found] == [
        "seed", "data", "package", "processor threads", "processor", "other code"
    ]  # fmt: skip
    assert causes_table(found)["#"].tolist() == [1, 2, 3, 4, 5, 6]
    assert [ORDER.index(cause.kind) for cause in found] == sorted(ORDER.index(cause.kind) for cause in found)


def older(commit: str, diff: str = "") -> World:
    """As a version noted it that did not digest its modules."""
    digest = str(hash(diff)) if diff else None
    return {**changed(git={"commit": commit, "diff": diff, "diff_sha256": digest, "untracked": []}), "code": {}}


def test_of_older_runs_git_tells_which_modules_differ() -> None:
    hunk = "diff --git a/{0} b/{0}\n@@ -1 +1 @@\n-x\n+{1}\n"
    then = older("a" * 40, hunk.format("deepfake/metrics.py", "y") + hunk.format("README.md", "y"))
    now = older("a" * 40, hunk.format("deepfake/metrics.py", "z") + hunk.format("README.md", "z"))
    assert first(find_causes(then, now)) == ("code", "deepfake/metrics.py")
    assert find_causes(then, then) == []
    assert first(find_causes(older("a" * 40), now)) == ("code", "deepfake/metrics.py")


def test_a_commit_that_git_does_not_know_may_differ_in_any() -> None:
    (cause,) = find_causes(older("a" * 40), older("b" * 40))
    assert cause.kind == "code"
    assert "does not know" in cause.checked


def test_a_config_that_was_edited_is_told_by_the_tracking_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepfake.options import flatten

    record = whole_run(tmp_path)
    params = {key: str(value) for key, value in flatten(record.config()).items()}
    assert edited_keys(dataclasses.replace(record, params=params)) == {}
    rate = "optimizer.lr"
    assert rate in params
    config = record.config()
    config["optimizer"]["lr"] = 0.00031244523411
    rounded = dataclasses.replace(record, params=params | {rate: "0.000312445"})
    monkeypatch.setattr(type(record), "config", lambda self: config)
    assert edited_keys(rounded) == {}
    monkeypatch.undo()
    params |= {"seed": "9", "name": "another", "paths.outputs": "/elsewhere"}
    assert edited_keys(dataclasses.replace(record, params=params)) == {"seed": ("9", "0")}


def test_many_names_are_counted() -> None:
    many = pd.concat([ROWS.iloc[:1].assign(sample_id=f"n{i}") for i in range(9)], ignore_index=True)
    (cause,) = find_causes(WORLD, WORLD, data(pd.concat([ROWS, many], ignore_index=True)))
    assert cause.text == "9 files added (n0, n1, n2, n3 and 5 more)"
