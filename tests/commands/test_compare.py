"""Runs side by side: on which samples, by which metric, and what is told of those that cannot be compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepfake.cli import main
from deepfake.data.manifest import Manifest, make_rows
from deepfake.errors import UserError
from deepfake.runs.comparison import leaderboard, metric_named, parameters, read_entries, shared_samples
from deepfake.tracking.run_folder import RunFolder, RunRecord, from_folder

Make = Callable[..., RunRecord]
N = 40


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A finished run's folder: ``skill`` from 0 (chance) to 1, scored on the samples of ``scored``."""

    def made(
        name: str,
        skill: float,
        *overrides: str,
        scored: range = range(N),
        flip: int | None = None,
        device: str = "cpu",
        group: int = 2,
        folder: str | None = None,
    ) -> RunRecord:
        kept = RunFolder(tmp_path / (folder or name))
        labels = np.arange(N) % 2
        ids = [f"d/{i:02d}" for i in range(N)]
        shown = {"path": "p", "kind": "image", "method": "m", "dataset": "d", "split": "test"}
        rows = [
            {**shown, "sample_id": ids[i], "path": f"{i}", "label": int(labels[i]), "groups": (str(i // group),)}
            for i in range(N)
        ]
        noise = np.random.default_rng(len(name)).random(N)
        score = np.clip(skill * labels + (1 - skill) * noise, 0, 1)
        if flip is not None:
            labels[flip] = 1 - labels[flip]
        table = pd.DataFrame({"sample_id": ids, "label": labels, "split": "test", "score": score, "status": "ok"})
        table.loc[[i for i in range(N) if i not in scored], ["score", "status"]] = [np.nan, "no face"]
        config = f"name: {name}\ntrainer:\n  threshold: 0.5\nhead:\n  hidden: {len(name)}\npaths:\n  outputs: {name}\n"
        kept.write_config(config, config, overrides)
        kept.write_manifest(Manifest(make_rows(rows), {"d": tmp_path}))
        kept.write_provenance({"format": 1, "machine": {"device": device}, "environment": {"WORLD_SIZE": "2"}})
        kept.write_predictions(table)
        kept.write_history([{"epoch": 0, "train/loss": 1.0, "val/roc_auc": skill}])
        kept.write_metrics({"metrics": {"train_seconds": 1800.0, "epochs_run": 1.0, "test/roc_auc": 0.123}})
        return from_folder(kept.path)

    return made


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


def test_the_verb_writes_one_page_that_needs_nothing_else(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(tmp_path / "outputs"))
    runs = [str(make(name, skill).places[0]) for name, skill in (("low", 0.05), ("higher", 0.9))]
    assert main(["compare", *runs, "--out", str(tmp_path / "page")]) == 0
    printed = capsys.readouterr().out
    assert printed.index("higher") < printed.index("low ")
    assert re.search(r"higher\s+│ low\s.*│ yes", printed)
    page = (tmp_path / "page" / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"https?://", page)
    assert (tmp_path / "page" / "comparison.md").is_file()
    assert list(pd.read_csv(tmp_path / "page" / "comparison.csv")["run"]) == ["higher", "low"]


def test_nothing_named_says_what_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(tmp_path))
    assert main(["compare"]) == 2
    assert "--experiment NAME" in capsys.readouterr().err


def test_a_sweep_may_have_a_name_that_ends_in_a_digit(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for number, skill in enumerate((0.1, 0.8)):
        make("tried", skill, folder=f"sweeps/tried2/{number}")
    assert main(["compare", "study:tried2", "--csv", "--out", str(tmp_path / "page")]) == 0
    assert "2 runs compared" in capsys.readouterr().out
