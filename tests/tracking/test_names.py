"""Names by what was chosen, and numbers as people write them."""

from __future__ import annotations

import pytest

from deepfake.tracking.names import grid_name, number, param_text, run_name, short_keys, study_name
from deepfake.tracking.search import TRIAL

LR, BATCH = "optimizer.lr", "trainer.batch_size"


@pytest.mark.parametrize(
    ("base", "chosen", "name"),
    [
        ("cnn_gru", {BATCH: "32", LR: "0.0003"}, "cnn_gru lr=3e-4 batch=32"),
        ("cnn_gru", {"model": "cnn_gru", "seed": "1"}, "cnn_gru seed=1"),
        ("mine", {"model": "cnn_gru"}, "mine model=cnn_gru"),
        ("cnn", {LR: "0.00031244523", "backbone.lr": "1e-05"}, "cnn lr=3.12e-4 backbone.lr=1e-5"),
        ("run", {"backbone.name": "resnet50"}, "run backbone=resnet50"),
        ("run", {"demo.seed": "1", "seed": "2"}, "run demo.seed=1 seed=2"),
        ("run", {"dataset.root": "'/data/My Films'"}, "run dataset.root=My Films"),
        ("run", {"dataset.table": "/data/a.yaml"}, "run table=a"),
        ("run", {"head.hidden": "null", "trainer.tf32": "true"}, "run hidden=null tf32=true"),
        ("run", {"augment.blur_sigma": "1.0"}, "run blur_sigma=1"),
        ("", {}, ""),
    ],
)
def test_a_run_is_named_by_what_was_chosen(base: str, chosen: dict[str, str], name: str) -> None:
    assert run_name(base, chosen) == name


def test_keys_are_called_the_same_in_every_run_of_a_sweep() -> None:
    swept = ["head.width", "backbone.width"]
    assert run_name("run", {"head.width": "64"}, swept) == "run width=64"
    assert run_name("run", {"backbone.width": "64"}, swept) == "run backbone.width=64"


def test_a_name_is_not_taken_for_a_trial_or_a_file_and_can_be_searched_for() -> None:
    name = run_name("run", {"backbone.weights": 'hub:"resnet":3'})
    assert not TRIAL.fullmatch(name)
    assert '"' not in name
    assert "\n" not in run_name("run", {"a.b": "x\ny"})


def test_a_long_value_and_a_long_name_are_cut() -> None:
    assert len(run_name("run", {"a.b": "x" * 500})) < 50
    assert len(run_name("run", {f"a.key{n}": "12345678" for n in range(50)})) == 120


def test_a_grid_is_named_by_what_is_swept() -> None:
    assert grid_name({"model": "cnn_lstm,cnn_gru"}) == "model=cnn_lstm,cnn_gru"
    assert grid_name({"seed": "1,2", LR: "1e-3,1e-4"}) == "seed=1,2 lr=1e-3,1e-4"
    assert grid_name({"trainer.precision": "'32',fp16"}) == "precision=32,fp16"
    assert grid_name({}) == ""


def test_a_study_is_named_by_its_search_its_model_and_how_many_trials() -> None:
    space = {BATCH: "choice(16,32)", LR: "tag(log, interval(1e-5, 1e-2))"}
    assert study_name("lr_batch", "cnn_gru", space, 20) == "lr_batch: cnn_gru, 20 trials"
    assert study_name(None, "cnn_gru", space, 1) == "batch,lr: cnn_gru, 1 trial"
    assert study_name("heads", "cnn", {"model": "choice(cnn,cnn_gru)"}, None) == "heads: cnn,cnn_gru"
    assert study_name("heads", "cnn", {"model": "choice(a,b,c,d)", LR: "x"}, 30) == "heads: 4 models, 30 trials"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0003, "3e-4"), (0.002, "0.002"), (1e-8, "1e-8"), (0.0, "0"), (-0.00025, "-2.5e-4"), (99999.4, "99999"),
     (123456.0, "1.23e5"), (0.1, "0.1"), (float("nan"), "nan"), (float("inf"), "inf")],
)  # fmt: skip
def test_numbers_are_written_as_people_do(value: float, text: str) -> None:
    assert number(value) == text


def test_parameters_keep_six_digits_and_what_is_no_real_number() -> None:
    assert [param_text(value) for value in (0.00031244523411, 1e-8, 0.002, 0.0, 16, True, None, [0.9, 0.999])] == [
        "0.000312445", "1e-08", "0.002", "0.0", "16", "True", "None", "[0.9, 0.999]",
    ]  # fmt: skip


def test_short_keys_keep_their_order() -> None:
    assert list(short_keys(["b.lr", "optimizer.lr", "a.x"])) == ["b.lr", "optimizer.lr", "a.x"]
