"""Descriptions of runs, sweeps and experiments."""

from __future__ import annotations

import pandas as pd
import pytest

from deepfake.tracking.delivery import Delivery
from deepfake.tracking.notes import MOST_ROWS, NOTE, SweepFacts, experiment_note, run_note
from deepfake.tracking.run import reopen, track

FACTS = SweepFacts("my study", "p" * 32, "7", "python train.py -m seed=1,2", "val/roc_auc", "2 runs over `seed=1,2`")
COLUMNS = ["test/accuracy", "val/roc_auc"]


def ranked(count: int = 2) -> pd.DataFrame:
    rows = [
        {
            "run": f"cnn seed={n}",
            "run_id": f"{n:032x}",
            "status": "finished",
            "test/accuracy": 0.9,
            "test/accuracy_low": 0.85,
            "test/accuracy_high": 0.95,
            "val/roc_auc": 0.9 - n / 1000,
        }
        for n in range(count)
    ]
    return pd.DataFrame(rows)


def test_a_sweep_is_described_by_its_best_run_a_table_with_intervals_and_what_to_do_next() -> None:
    text = FACTS.ended("finished", ranked(), COLUMNS)
    assert "[cnn seed=0](#/experiments/7/runs/00000000000000000000000000000000" in text.splitlines()[0]
    assert "| Run | Accuracy | ROC-AUC (val) |" in text
    assert "0.900 [0.850, 0.950]" in text
    assert "python train.py -m seed=1,2" in text
    assert "deepfake reproduce 'best:my study'" in text
    assert "viewStateShareKey" in text


def test_a_sweep_that_its_server_does_not_know_yet_is_described_without_links() -> None:
    facts = SweepFacts("s", "", "", "", "val/roc_auc", "2 runs")
    assert "](#" not in facts.ended("finished", ranked(), COLUMNS)


def test_a_sweep_without_a_result_says_so() -> None:
    empty = ranked().assign(**{"val/roc_auc": float("nan")})
    assert "No run has val/roc_auc" in FACTS.ended("stopped", empty, COLUMNS)
    assert "No run has val/roc_auc" in FACTS.ended("stopped", pd.DataFrame(), [])


def test_a_long_table_is_cut_and_says_where_the_rest_is() -> None:
    text = FACTS.ended("finished", ranked(MOST_ROWS + 5), COLUMNS)
    assert text.count("\n| [cnn") == MOST_ROWS
    assert "5 more in `comparison.md`" in text
    assert len(text) < 8000


def test_a_failed_or_pruned_run_is_marked() -> None:
    assert "(pruned) |" in FACTS.ended("finished", ranked().assign(status=["finished", "pruned"]), COLUMNS)


def test_a_study_that_goes_on_keeps_the_table_of_its_last_end() -> None:
    text = FACTS.begun("| Run |\n| --- |")
    assert text.startswith("Going on: 2 runs over `seed=1,2`. From its last end:\n\n| Run |")
    assert FACTS.begun().startswith("Running: 2 runs")


def test_a_run_is_described_by_its_result_its_warnings_and_its_commands() -> None:
    metrics = {"test/accuracy": 0.9, "test/f1": 0.8, "best_epoch": 3.0}
    metrics |= {"test/accuracy_low": 0.8, "test/accuracy_high": 0.95}
    text = run_note("a b", metrics, ["<b>few</b> samples"])
    assert text.startswith("**Test: accuracy 0.900 [0.800, 0.950], F1 0.8000, ROC-AUC not available** (epoch 3)")
    assert "- &lt;b>few&lt;/b> samples" in text
    assert "deepfake predict 'a b' clip.mp4" in text


def test_a_run_without_a_result_says_so_and_names_no_command() -> None:
    assert run_note("x", {}, []) == "No result yet.\n"


def test_an_experiment_is_described_by_its_data() -> None:
    text = experiment_note("demo", {"train": {"real": 3, "fake": 5}, "test": {"real": 1, "fake": 2}}, [])
    assert "**demo**: 11 samples" in text
    assert "| train | 3 | 5 |" in text
    assert "warns of nothing" in text


def test_a_description_is_written_anew_until_somebody_changes_it(store, client, experiment: str, quiet) -> None:
    with track(store, experiment, "one", options=quiet) as run:
        run.note("first")
        run.note("second")
    assert client.get_run(run.id).data.tags[NOTE] == "second"
    client.set_tag(run.id, NOTE, "mine")
    reopen(store, run.id).note("third")
    assert client.get_run(run.id).data.tags[NOTE] == "mine"


def test_so_is_that_of_an_experiment(store, client, experiment: str, quiet) -> None:
    with track(store, experiment, "one", options=quiet) as run:
        run.experiment_note("first")
        run.experiment_note("second")
        assert client.get_experiment(run.experiment).tags[NOTE] == "second"
        client.set_experiment_tag(run.experiment, NOTE, "mine")
        run.experiment_note("third")
        assert client.get_experiment(run.experiment).tags[NOTE] == "mine"


def test_a_run_is_renamed_and_a_view_of_its_children_is_kept(store, client, experiment: str, quiet) -> None:
    with track(store, experiment, "20 trials", options=quiet) as run:
        run.compares(["seed"], "val/roc_auc", maximize=True)
        run.renamed("40 trials")
    assert client.get_run(run.id).info.run_name == "40 trials"
    assert "params.`seed`" in client.get_experiment(run.experiment).tags[f"mlflow.sharedViewState.{run.id}"]


def test_an_entry_of_a_stranger_sets_no_other_tag_of_an_experiment(client) -> None:
    with pytest.raises(ValueError, match="no kind of entry"):
        Delivery(client, "x", "0", "")([{"kind": "experiment_tags", "values": {"mlflow.experimentKind": "x"}}])
