"""Every number of a table of predictions: against scikit-learn, and where it is not defined."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from deepfake.errors import UserError
from deepfake.training.bootstrap import PLACES, precision_band, roc_band
from deepfake.training.decision import Decision
from deepfake.training.evaluation import (
    break_down,
    evaluate_predictions,
    macro_average,
    resampling_units,
    usual_columns,
)
from deepfake.training.fitting import fit_decision
from deepfake.training.intervals import auc_interval
from deepfake.training.options import EvaluationOptions

OPTIONS = EvaluationOptions(resamples=100)


def table(n: int = 240, kind: str = "random") -> pd.DataFrame:
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 2, n)
    scores = np.clip(0.3 * labels + 0.7 * generator.random(n), 0, 1)
    shapes = {"random": scores, "ties": np.round(scores, 1), "all equal": np.full(n, 0.5), "extremes": np.round(scores)}
    return pd.DataFrame(
        {
            "label": labels,
            "score": shapes[kind],
            "status": "ok",
            "method": np.where(labels == 0, "real", np.where(np.arange(n) % 3 == 0, "Swap", "Blend")),
            "compression": np.where(np.arange(n) % 2 == 0, "c23", "c40"),
            "dataset": "faces",
            "groups": [(f"g{i % 40}",) for i in range(n)],
        }
    )


def decision(predictions: pd.DataFrame) -> Decision:
    return fit_decision(predictions, OPTIONS, 0.5, "val")


@pytest.mark.parametrize("kind", ["random", "ties", "all equal", "extremes"])
def test_numbers_agree_with_scikit_learn(kind: str) -> None:
    predictions = table(kind=kind)
    y, s = predictions["label"].to_numpy(), predictions["score"].to_numpy()
    made = decision(table())
    found = evaluate_predictions(predictions, made, OPTIONS).values
    assert made.calibrator is not None
    fitted, p = (s >= made.applied_threshold).astype(int), made.calibrator(s)
    expected = {
        "roc_auc": sk.roc_auc_score(y, s),
        "average_precision": sk.average_precision_score(y, s),
        "accuracy": sk.accuracy_score(y, s >= 0.5),
        "f1": sk.f1_score(y, s >= 0.5),
        "log_loss": sk.log_loss(y, s),
        "brier": sk.brier_score_loss(y, s),
        "accuracy_fitted": sk.accuracy_score(y, fitted),
        "balanced_accuracy_fitted": sk.balanced_accuracy_score(y, fitted),
        "f1_fitted": sk.f1_score(y, fitted),
        "recall_fitted": sk.recall_score(y, fitted),
        "log_loss_calibrated": sk.log_loss(y, p),
        "brier_calibrated": sk.brier_score_loss(y, p),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-10), name


@pytest.mark.parametrize("kind", ["random", "ties"])
def test_fakes_found_at_a_rate_are_read_off_the_curve(kind: str) -> None:
    predictions = table(kind=kind)
    alarms, hits, _ = sk.roc_curve(predictions["label"], predictions["score"], drop_intermediate=False)
    found = evaluate_predictions(predictions, decision(predictions), OPTIONS)
    assert found.values["tpr_at_fpr_0.01"] == pytest.approx(hits[alarms <= 0.01].max(), abs=1e-10)
    assert "cannot resolve" in found.unavailable["tpr_at_fpr_0.001"]


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_says_so_of_every_ranking_number(label: int) -> None:
    predictions = table()
    found = evaluate_predictions(predictions[predictions["label"] == label], decision(predictions), OPTIONS)
    for name in ("roc_auc", "average_precision", "eer", "tpr_at_fpr_0.01", "balanced_accuracy_fitted"):
        assert name not in found.values
        assert found.unavailable[name] == f"only {('real', 'fake')[label]} samples"
    assert "accuracy" in found.values


def test_nothing_scored_gives_reasons_only() -> None:
    predictions = table().assign(status="no_face", score=float("nan"))
    found = evaluate_predictions(predictions, decision(table()), OPTIONS)
    assert found.values == {}
    assert found.unavailable["roc_auc"] == "no sample was scored"


def test_nan_is_refused() -> None:
    predictions = table()
    predictions.loc[3, "score"] = float("nan")
    with pytest.raises(ValueError, match="1 of 240 scores are NaN"):
        evaluate_predictions(predictions, decision(table()), OPTIONS)


def test_confusion_counts_every_sample_at_both_thresholds() -> None:
    predictions = table()
    made = decision(predictions)
    found = evaluate_predictions(predictions, made, OPTIONS).confusion
    for name, cut in (("default", 0.5), ("fitted", made.threshold)):
        counts = sk.confusion_matrix(predictions["label"], predictions["score"] >= cut).ravel()
        keys = ("real_as_real", "real_as_fake", "fake_as_real", "fake_as_fake")
        assert [found[name][key] for key in keys] == counts.tolist()


def test_intervals_are_drawn_over_groups_and_say_so() -> None:
    predictions = table()
    units = resampling_units(predictions["groups"])
    found = evaluate_predictions(predictions, decision(predictions), OPTIONS, units)
    assert found.intervals["roc_auc"] == "bootstrap over 40 groups, 100 draws"
    assert found.values["roc_auc_low"] < found.values["roc_auc"] < found.values["roc_auc_high"]


def test_delong_stands_beside_over_the_same_groups() -> None:
    predictions = table()
    units = resampling_units(predictions["groups"])
    found = evaluate_predictions(predictions, decision(predictions), OPTIONS, units)
    interval = auc_interval(predictions["label"].to_numpy(), predictions["score"].to_numpy(), groups=units.codes)
    assert (found.values["roc_auc_delong_low"], found.values["roc_auc_delong_high"]) == (interval.low, interval.high)
    assert found.intervals["roc_auc_delong"] == "DeLong over 40 groups"


def test_with_too_few_groups_there_is_no_interval_and_the_reason() -> None:
    predictions = table().assign(groups=[("one",)] * 240)
    units = resampling_units(predictions["groups"])
    found = evaluate_predictions(predictions, decision(predictions), OPTIONS, units)
    assert not [name for name in found.values if name.endswith(("_low", "_high"))]
    assert found.intervals == {}
    assert found.unavailable["roc_auc_low"].startswith("1 groups with real samples are too few")
    assert found.unavailable["roc_auc_delong"] == found.unavailable["roc_auc_low"]


def test_units_are_counted_among_what_was_scored() -> None:
    predictions = table()
    reals = np.flatnonzero(predictions["label"] == 0)
    predictions.loc[reals[5:], "status"] = "no_face"
    found = evaluate_predictions(predictions, decision(table()), OPTIONS)
    assert "5 real samples are too few" in found.unavailable["accuracy_low"]


def test_one_component_with_most_fakes_gives_way_to_first_groups() -> None:
    # As in Celeb-DF v2's list: people chained together by all the fakes, beside reals of their own.
    people = [(f"p{i % 30}", f"p{(7 * i + 1) % 30}") for i in range(300)]
    groups = pd.Series([*people, *[(f"y{i}",) for i in range(70)]])
    labels = np.r_[np.ones(300, int), np.zeros(70, int)]
    units = resampling_units(groups, labels)
    assert (len(units), units.name) == (100, "groups (each sample's first)")


def test_chained_groups_fall_back_to_the_first_of_each() -> None:
    chained = pd.Series([(f"p{i}", f"p{i + 1}") for i in range(20)])
    units = resampling_units(chained)
    assert (len(units), units.name) == (20, "groups (each sample's first)")


def test_a_method_is_scored_against_all_reals() -> None:
    predictions = table()
    found = break_down(predictions, ["method"], decision(predictions), 0.95).set_index("group")
    own = predictions[(predictions["label"] == 0) | (predictions["method"] == "Swap")]
    assert set(found.index) == {"Swap", "Blend"}
    assert found.loc["Swap", "roc_auc"] == pytest.approx(sk.roc_auc_score(own["label"], own["score"]), abs=1e-10)
    assert found.loc["Swap", "real"] == (predictions["label"] == 0).sum()


def test_any_other_column_is_scored_on_its_own_rows() -> None:
    predictions = table()
    found = break_down(predictions, ["compression"], decision(predictions), 0.95).set_index("group")
    own = predictions[predictions["compression"] == "c40"]
    assert found.loc["c40", "roc_auc"] == pytest.approx(sk.roc_auc_score(own["label"], own["score"]), abs=1e-10)


def test_a_one_class_part_says_why_it_has_no_number() -> None:
    predictions = table()
    predictions["half"] = np.where(predictions["label"] == 1, "fakes", "reals")
    found = break_down(predictions, ["half"], decision(predictions), 0.95).set_index("group")
    assert np.isnan(found.loc["fakes", "roc_auc"])
    assert found.loc["fakes", "reason"] == "only fake samples"


def test_a_missing_column_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError) as caught:
        break_down(table(), ["compresion"], decision(table()), 0.95)
    assert "'compresion'" in caught.value.message
    assert "did you mean 'compression'?" in caught.value.hint


def test_the_macro_average_weighs_methods_alike() -> None:
    predictions = table()
    found = break_down(predictions, ["method", "compression"], decision(predictions), 0.95)
    assert macro_average(found) == pytest.approx(found.loc[found["by"] == "method", "roc_auc"].mean())


def test_usual_columns_are_those_that_tell_groups_apart() -> None:
    assert usual_columns(table()) == ["method", "compression"]


def test_the_roc_band_holds_the_curve() -> None:
    predictions = table()
    y, s = predictions["label"].to_numpy(), predictions["score"].to_numpy()
    band = roc_band(y, s, np.arange(len(y)), OPTIONS)
    assert band is not None
    alarms, hits, _ = sk.roc_curve(y, s, drop_intermediate=False)
    curve = np.interp(PLACES, alarms, hits)
    assert ((band[0] <= curve + 1e-9) & (curve <= band[1] + 1e-9)).mean() > 0.95


def test_the_precision_band_holds_the_curve() -> None:
    predictions = table()
    y, s = predictions["label"].to_numpy(), predictions["score"].to_numpy()
    band = precision_band(y, s, np.arange(len(y)), OPTIONS)
    assert band is not None
    precision, recall, _ = sk.precision_recall_curve(y, s)
    # The highest cut that reaches each recall; scikit-learn lists cuts from the lowest up.
    curve = np.array([precision[np.flatnonzero(recall >= place)[-1]] for place in PLACES[1:]])
    assert ((band[0][1:] <= curve + 1e-9) & (curve <= band[1][1:] + 1e-9)).mean() > 0.95


def test_a_breakdown_is_drawn_over_the_units_of_the_whole() -> None:
    predictions = table()
    units = resampling_units(predictions["groups"])
    found = break_down(predictions, ["compression"], decision(predictions), 0.95, units).set_index("group")
    own = (predictions["compression"] == "c40").to_numpy()
    labels, scores = predictions["label"].to_numpy()[own], predictions["score"].to_numpy()[own]
    interval = auc_interval(labels, scores, groups=units.codes[own])
    assert tuple(found.loc["c40", ["roc_auc_low", "roc_auc_high"]]) == (interval.low, interval.high)


def test_a_part_of_too_few_units_has_a_number_and_no_interval() -> None:
    predictions = table().assign(part=["small" if i < 12 else "large" for i in range(240)])
    found = break_down(predictions, ["part"], decision(predictions), 0.95).set_index("group")
    assert np.isfinite(found.loc["small", "roc_auc"])
    assert np.isnan(found.loc["small", "roc_auc_low"])
    assert "samples are too few to draw from" in found.loc["small", "reason"]
    assert found.loc["large", "reason"] == ""


def test_bands_at_a_perfect_score_have_a_width() -> None:
    labels = np.repeat([0, 1], 20)
    for band in (roc_band, precision_band):
        found = band(labels, np.linspace(0, 1, 40), np.arange(40), OPTIONS)
        assert found is not None
        assert (found[1] - found[0])[50] > 0.05


def test_one_class_has_no_band() -> None:
    assert roc_band(np.ones(20, int), np.linspace(0, 1, 20), np.arange(20), OPTIONS) is None
