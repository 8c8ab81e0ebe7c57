from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from deepfake.metrics import Interval
from deepfake.tracking.figures import curves, draw_run, evaluation, scores, selection
from deepfake.tracking.figures.style import save

HISTORY = [{"epoch": e, "train/loss": 1 / (e + 1), "val/roc_auc": 1 - 0.5 / (e + 1)} for e in range(3)]
OF_SCORES = [scores.roc, scores.precision_recall, scores.confusion, scores.histogram, scores.reliability]


def texts(figure: Figure) -> str:
    drawn = [text.get_text() for axis in figure.axes for text in axis.texts]
    legends = [text.get_text() for axis in figure.axes if axis.get_legend() for text in axis.get_legend().get_texts()]
    return "\n".join(drawn + legends)


def test_run_leaves_five_figures(tmp_path: Path, predictions: pd.DataFrame) -> None:
    paths = draw_run(tmp_path, history=HISTORY, predictions=predictions, monitor="val/roc_auc", best_epoch=2)
    names = ["learning_curves", "roc", "precision_recall", "confusion_matrix", "score_histogram"]
    assert [path.stem for path in paths] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(path.name for path in paths)


def test_drawing_changes_no_global_setting(tmp_path: Path, predictions: pd.DataFrame) -> None:
    before = dict(mpl.rcParams)
    draw_run(tmp_path, history=HISTORY, predictions=predictions, monitor="val/roc_auc", best_epoch=2)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("draw", OF_SCORES)
def test_one_class_is_drawn_or_says_why_not(draw, predictions: pd.DataFrame, tmp_path: Path) -> None:
    save(draw(predictions[predictions["label"] == 1]), tmp_path / "f.png")


@pytest.mark.parametrize("draw", [scores.roc, scores.precision_recall])
def test_curve_over_one_class_says_which(draw, predictions: pd.DataFrame) -> None:
    assert "all 2 samples are fake" in texts(draw(predictions[predictions["label"] == 1]))


@pytest.mark.parametrize("draw", OF_SCORES)
def test_no_scores_at_all_says_so(draw, predictions: pd.DataFrame) -> None:
    assert "no sample has" in texts(draw(predictions.assign(score=np.nan))) or "no scores" in texts(
        draw(predictions.assign(score=np.nan))
    )


def test_samples_without_a_score_are_counted(predictions: pd.DataFrame) -> None:
    assert "1 of 6 samples have no score" in texts(scores.roc(predictions))


def test_roc_names_the_area_scikit_learn_finds(predictions: pd.DataFrame) -> None:
    assert "ROC-AUC 0.833" in texts(scores.roc(predictions))


def test_interval_is_named_where_given(predictions: pd.DataFrame) -> None:
    figure = scores.roc(predictions, auc=Interval(0.83, 0.7, 0.95))
    assert "0.830 [0.700, 0.950]" in texts(figure)


def test_confusion_counts_at_the_threshold(predictions: pd.DataFrame) -> None:
    drawn = texts(scores.confusion(predictions, threshold=0.5)).split("\n")
    assert drawn[1:] == ["2", "66.7%", "1", "33.3%", "1", "50.0%", "1", "50.0%"]


def test_best_epoch_is_marked() -> None:
    assert "best epoch 2" in texts(curves.learning_curves(HISTORY, monitor="val/roc_auc", best_epoch=2))


def test_empty_history_says_so() -> None:
    assert "no loss was recorded" in texts(curves.learning_curves([], monitor="val/roc_auc"))


def test_epochs_without_a_value_leave_a_gap() -> None:
    epochs, values = selection.series([{"a": 1.0}, {"a": float("nan")}, {"b": 2.0}, {"a": 4.0}], "a")
    assert (list(epochs), list(values)) == ([1.0, 4.0], [1.0, 4.0])


def test_most_typical_are_right_near_the_median_and_of_both_classes() -> None:
    scores = [0.01, 0.1, 0.2, 0.9, 0.6, 0.8, 0.99, 0.3]
    table = pd.DataFrame({"sample_id": list("abcdefgh"), "label": [0, 0, 0, 0, 1, 1, 1, 1], "score": scores})
    assert list(selection.most_typical(table, 4)["sample_id"]) == ["b", "a", "f", "g"]
    assert list(selection.most_typical(table, 1)["sample_id"]) in (["b"], ["f"])
    assert set(selection.most_typical(table[table["label"] == 1], 9)["sample_id"]) == {"e", "f", "g"}
    assert selection.most_typical(table.iloc[:0], 9).empty


def test_most_wrong_are_only_the_wrong_ones_worst_first(predictions: pd.DataFrame) -> None:
    assert list(selection.most_wrong(predictions, 5)["sample_id"]) == ["b", "e"]


def test_contact_sheet_names_truth_and_score(predictions: pd.DataFrame) -> None:
    worst = selection.most_wrong(predictions, 2)
    figure = evaluation.contact_sheet([np.zeros((8, 8, 3), np.uint8)] * 2, worst)
    assert [axis.get_title() for axis in figure.axes] == ["real\nscored 0.600", "fake, swap\nscored 0.400"]


def test_nothing_wrong_leaves_a_sheet_that_says_so(predictions: pd.DataFrame) -> None:
    assert "none was scored wrongly" in texts(evaluation.contact_sheet([], predictions.iloc[:0]))


def test_undefined_group_is_named_not_drawn_as_zero() -> None:
    groups = pd.DataFrame({"group": ["a", "b"], "value": [0.9, np.nan], "n": [10, 2]})
    assert "not defined" in texts(evaluation.group_bars(groups, metric="ROC-AUC", macro=0.9))


def test_groups_all_undefined_say_so() -> None:
    groups = pd.DataFrame({"group": ["a"], "value": [np.nan], "n": [10]})
    assert "defined for none of 1 groups" in texts(evaluation.group_bars(groups, metric="ROC-AUC"))


@pytest.mark.parametrize("kinds", [1, 4])
def test_robustness_draws_a_panel_for_each_kind(kinds: int, tmp_path: Path) -> None:
    curve = pd.DataFrame({"severity": [90, "strong"], "value": [0.9, np.nan], "low": [0.8, 0.7], "high": [1.0, 0.9]})
    figure = evaluation.robustness({f"kind {i}": curve for i in range(kinds)}, clean=0.95)
    save(figure, tmp_path / "f.png")
    assert sum(axis.axison for axis in figure.axes) == kinds


def test_overlay_leaves_out_a_run_of_one_class(predictions: pd.DataFrame) -> None:
    runs = {"good": predictions, "fakes only": predictions[predictions["label"] == 1]}
    shown = texts(curves.overlaid_roc(runs))
    assert "good  0.833" in shown
    assert "fakes only" not in shown


def test_overlay_of_many_says_how_many_it_shows(predictions: pd.DataFrame) -> None:
    figure = curves.overlaid_roc({f"run {i}": predictions for i in range(9)})
    assert "the first 7 of 9 runs" in texts(figure)


def test_overlaid_learning_needs_no_common_length(tmp_path: Path) -> None:
    runs = {"long": HISTORY, "short": HISTORY[:1], "none": []}
    shown = texts(curves.overlaid_learning(runs, metric="val/roc_auc"))
    assert "long\nshort" in shown


def test_profile_shares_add_up_with_unknown_parts_as_other() -> None:
    shown = texts(curves.epoch_times([{"data_wait": 1.0, "forward": 2.0, "surprise": 1.0}]))
    assert shown.split("\n") == ["other 25.0%", "forward 50.0%", "data wait 25.0%"]


def test_profile_without_times_says_what_to_set() -> None:
    assert "trainer.profile=true" in texts(curves.epoch_times([]))


def test_profiled_epochs_give_their_seconds_and_no_other_number() -> None:
    epoch = {"val/loss": 0.5, "profile/forward": 2.0, "profile/mfu": 0.3, "profile/peak_memory_bytes": 2e9}
    assert curves.part_seconds(epoch) == {"forward": 2.0}
    assert curves.speed_remark([epoch]) == "2.0 GB at most, MFU 30%"
    assert curves.part_seconds({"val/loss": 0.5}) == {}


def test_halves_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, living = socket.gethostname(), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead, alive = (tmp_path / f".{host}-{process.pid}-368b52a7.roc.png" for process in (ended, living))
    elsewhere = tmp_path / f".another-{host}-{ended.pid}-368b52a7.roc.png"
    for half in (dead, alive, elsewhere):
        half.touch()
    save(Figure(), tmp_path / "roc.png")
    living.communicate(b"\n")
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, elsewhere.name, "roc.png"}
