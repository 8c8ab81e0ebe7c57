"""Runs made comparable: on which samples, by which metric, and which cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepfake.errors import UserError
from deepfake.runs.comparison import columns_of, leaderboard, metric_named, parameters, read_entries, shared_samples
from deepfake.tracking.run_record import RunRecord, from_folder
from tests.runs.fakes import finished_run

Make = Callable[..., RunRecord]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """``make("name", 0.8)`` is a finished run of that skill."""
    return partial(finished_run, tmp_path)


def board(*records: RunRecord) -> pd.DataFrame:
    entries = read_entries(records)
    return leaderboard(entries, shared_samples(entries), 200, 0.95).set_index("run")


def test_metrics_are_computed_on_the_samples_all_runs_share(make: Make) -> None:
    entries = read_entries([make("all", 0.3), make("half", 1.0, scored=range(20))])
    shared = shared_samples(entries)
    assert len(shared.labels) == 20
    assert "these scored more: all 20" in shared.notes[0]
    assert leaderboard(entries, shared, 200, 0.95).set_index("run").loc["half", "test/roc_auc"] == 1.0


def test_runs_without_a_common_sample_are_refused(make: Make) -> None:
    with pytest.raises(UserError, match="no test sample was scored by all 2 runs: a 20 of its data; b 20"):
        shared_samples(read_entries([make("a", 0.3, scored=range(20)), make("b", 0.3, scored=range(20, 40))]))


def test_runs_that_disagree_on_a_label_are_refused(make: Make) -> None:
    with pytest.raises(UserError, match="a and b do not agree on the label of 1 samples, such as 'd/03'"):
        shared_samples(read_entries([make("a", 0.3), make("b", 0.3, flip=3)]))


def test_intervals_lie_around_their_values(make: Make) -> None:
    found = board(make("a", 0.3), make("bb", 0.4))
    for name in ("accuracy", "f1", "roc_auc"):
        low, value, high = (found[f"test/{name}{end}"] for end in ("_low", "", "_high"))
        assert (low <= value).all()
        assert (value <= high).all()
        assert (low < high).all()


def test_too_few_groups_are_told(make: Make) -> None:
    entries = read_entries([make("a", 0.3, group=10), make("bb", 0.4, group=10)])
    shared = shared_samples(entries)
    assert "No intervals and no tests: 4 groups with real samples are too few" in shared.notes[0]
    found = leaderboard(entries, shared, 200, 0.95)
    assert found["test/roc_auc"].notna().all()
    assert not [name for name in found if name.endswith(("_low", "_high"))]


def test_gpu_hours_count_every_process_and_a_cpu_has_none(make: Make) -> None:
    found = board(make("a", 0.3, device="cuda:0"), make("bb", 0.4))
    assert found["gpu_hours"].tolist()[0] == 1.0
    assert np.isnan(found["gpu_hours"].tolist()[1])


def test_what_was_typed_differently_is_a_column_and_places_are_not(make: Make) -> None:
    found = board(make("a", 0.3, "seed=1", "x=1", "paths.outputs=/a"), make("bb", 0.4, "x=1", "paths.outputs=/b"))
    assert found["seed"].tolist() == ["1", "–"]
    assert not {"x", "paths.outputs"} & set(found)


def test_parameters_that_differ_leave_out_names_and_places(make: Make) -> None:
    found = parameters(read_entries([make("a", 0.3), make("bb", 0.4)]))
    assert found.to_numpy().tolist() == [["head.hidden", "1", "2"]]


def test_runs_of_one_name_are_told_apart(make: Make) -> None:
    entries = read_entries([make("same", 0.3, folder="one"), make("same", 0.4, folder="two")])
    assert [entry.label for entry in entries] == ["same one", "same two"]


@pytest.mark.parametrize(
    ("by", "name", "larger"),
    [
        ("roc_auc", "test/roc_auc", True),
        ("test/accuracy", "test/accuracy", True),
        ("brier", "test/brier", False),
        ("train_seconds", "train_seconds", False),
    ],
)
def test_the_metric_says_which_way_is_better(by: str, name: str, larger: bool, make: Make) -> None:
    assert metric_named(by, board(make("a", 0.3), make("bb", 0.4)).reset_index()) == (name, larger)


def test_a_metric_no_run_has_names_the_nearest(make: Make) -> None:
    with pytest.raises(UserError, match="did you mean 'test/roc_auc'"):
        metric_named("test/roc_auk", board(make("a", 0.3), make("bb", 0.4)).reset_index())


def test_an_unfinished_run_is_refused(make: Make) -> None:
    unfinished = make("a", 0.3)
    (unfinished.places[0] / "metrics.json").unlink()
    with pytest.raises(UserError, match="never finished"):
        read_entries([from_folder(unfinished.places[0])])


def test_the_gain_over_the_probe_stands_beside_the_roc_auc_where_a_run_has_one(make: Make) -> None:
    records = [make("a", 0.3), make("bb", 0.4)]
    entries = read_entries(records)
    shared = shared_samples(entries)
    assert "test/gain_over_probe" not in columns_of(leaderboard(entries, shared, 200, 0.95), entries, "roc_auc")
    entries[0] = replace(entries[0], metrics={**entries[0].metrics, "test/gain_over_probe": 0.1})
    shown = columns_of(leaderboard(entries, shared, 200, 0.95), entries, "roc_auc")
    assert shown.index("test/gain_over_probe") == shown.index("test/roc_auc") + 1
