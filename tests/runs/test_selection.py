"""What the config's selection names, found among a run's clips; and every way in which it may choose by nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepfake.config import RunConfig
from deepfake.data.options import DatasetOptions
from deepfake.errors import UserError
from deepfake.runs.build import Data
from deepfake.runs.console import Console
from deepfake.runs.selection import selection_of, trained_on, with_selected
from deepfake.training.options import SelectionOptions
from tests.training.fakes import FakeClips


def _clips(samples: int, seed: int) -> FakeClips:
    clips = FakeClips(samples, seed=seed)
    fakes = np.flatnonzero(clips.table["label"])
    clips.table.loc[fakes, "method"] = np.where(np.arange(len(fakes)) % 2, "Swap", "Patch")
    clips.table["dataset"] = np.where(np.arange(samples) % 4 < 2, "one", "two")
    return clips


def _run(**options: Any) -> Any:
    data = SimpleNamespace(splits={"train": _clips(16, 0), "val": _clips(12, 1)}, selected={})
    return SimpleNamespace(config=RunConfig(selection=SelectionOptions(**options)), data=data)


def test_validation_alone_counts_where_nothing_is_said() -> None:
    run = _run()
    selection = selection_of(run)
    assert (selection.val, selection.sets, selection.folds) == (True, {}, {})
    assert trained_on(run) is run.data.splits["train"]


def test_a_method_that_is_held_out_is_not_trained_on() -> None:
    run = _run(val=False, holdout_methods=["Swap"])
    assert "Swap" not in set(trained_on(run).table["method"])
    assert set(selection_of(run).sets["held out"].table["method"]) == {"Swap", "real"}


@pytest.mark.parametrize(
    ("what", "column", "names"), [("methods", "method", ["Patch", "Swap"]), ("sets", "dataset", ["one", "two"])]
)
def test_each_is_left_out_in_turn(what: str, column: str, names: list[str]) -> None:
    folds = selection_of(_run(val=False, leave_one_out=what)).folds
    assert list(folds) == [f"without {name}" for name in names]
    for name in names:
        fold = folds[f"without {name}"]
        assert name not in set(fold.train.table[column])
        assert name in set(fold.held.table[column])
        assert set(fold.held.labels.tolist()) == {0.0, 1.0}


def test_reals_are_in_every_part() -> None:
    run = _run(leave_one_out="methods")
    fold = selection_of(run).folds["without Swap"]
    reals = int((run.data.splits["val"].table["label"] == 0).sum())
    assert int((fold.held.table["label"] == 0).sum()) == reals


def test_a_method_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="no fake is by 'Swp'") as raised:
        selection_of(_run(holdout_methods=["Swp"]))
    assert "Swap" in raised.value.hint


def test_holding_out_all_fakes_is_refused() -> None:
    with pytest.raises(UserError, match="training without Patch, Swap has no fake samples"):
        trained_on(_run(holdout_methods=["Patch", "Swap"]))


def test_one_method_cannot_be_left_out_in_turn() -> None:
    run = _run(leave_one_out="methods")
    run.data.splits["train"].table["method"] = "Patch"
    with pytest.raises(UserError, match="of 1 of the methods: Patch"):
        selection_of(run)


def test_a_part_without_reals_is_refused() -> None:
    run = _run(val=False, leave_one_out="sets")
    table = run.data.splits["val"].table
    table["dataset"] = np.where(table["label"] == 1, "one", "two")
    with pytest.raises(UserError, match="validation of one has no real samples"):
        selection_of(run)


def test_choosing_by_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="counts nothing"):
        selection_of(_run(val=False))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"damaged": ["JPG"]}, "'JPG', which is no damage"),
        ({"damaged": ["frames dropped"]}, "does nothing to single frames"),
        ({"holdout_sets": [{"root": "/x"}]}, r"holdout_sets\[0\] names no layout"),
        ({"holdout_sets": [{"layout": "images", "size": 64}]}, r"holdout_sets\[0\] has the key 'size'"),
        ({"holdout_sets": [{"layout": "images", "root": "/nowhere"}]}, "does not exist"),
    ],
)
def test_what_cannot_be_read_is_told(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    config = RunConfig(selection=SelectionOptions(**options), dataset=DatasetOptions(frames=1))
    config.paths.outputs = str(tmp_path)
    data = Data(None, None, None, {"val": _clips(12, 1)})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=said):
        with_selected(config, data, Console(quiet=True))
