"""A trained run scored on its own data, on others and on damaged clips, and what is kept of it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deepfake.data.corruptions import KINDS
from tests.end_to_end.conftest import SMALL, Command
from tests.end_to_end.using import Here, told


@pytest.fixture
def alone(kept: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder that no store knows."""
    return Path(shutil.copytree(kept, tmp_path / "alone"))


@pytest.fixture(scope="module")
def demo(kept: Path) -> Path:
    return Path(json.loads((kept / "provenance.json").read_text())["data"]["roots"]["demo"])


def table_of(demo: Path, kept: Path, folder: Path, rows: pd.DataFrame) -> str:
    """A table data set of some of the demo's videos; returns its file."""
    paths = [str(demo / path) for path in rows["path"]]
    listed = pd.DataFrame({"path": paths, "label": rows["label"].to_numpy(), "split": "test"})
    listed["camera"] = [f"c{i % 2}" for i in range(len(listed))]
    listed.to_csv(folder / "some.csv", index=False)
    return str(folder / "some.csv")


def kept_numbers(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "metrics.json").read_text())
    return found


def test_its_own_data_gives_the_runs_own_numbers(kept: Path, here: Here) -> None:
    said = here("evaluate", "kept", "--by", "compression")
    assert said.status == 0, said.err
    trained, found = kept_numbers(kept)["metrics"], kept_numbers(kept / "eval" / "demo")["metrics"]
    shared = {name: value for name, value in trained.items() if name.removeprefix("test/") in found}
    assert {"test/roc_auc", "test/accuracy_fitted", "test/log_loss_calibrated"} <= shared.keys()
    assert "too few" in kept_numbers(kept)["unavailable"]["test/roc_auc_low"]
    for name, value in shared.items():
        if name.startswith("test/"):
            assert found[name.removeprefix("test/")] == pytest.approx(value, abs=1e-6), name
    predictions = pd.read_parquet(kept / "eval" / "demo" / "predictions.parquet")
    manifest = pd.read_parquet(kept / "manifest.parquet")
    assert set(predictions["sample_id"]) == set(manifest.loc[manifest["split"] == "test", "sample_id"])
    breakdown = pd.read_csv(kept / "eval" / "demo" / "breakdown.csv")
    assert list(zip(breakdown["by"], breakdown["group"], strict=True)) == [
        ("method", "SyntheticBlend"),
        ("method", "SyntheticFlicker"),
        ("compression", "c23"),
    ]


def test_the_same_run_in_the_store_holds_it(kept: Path, outputs: Path, here: Here) -> None:
    from mlflow import MlflowClient

    half = kept / "eval" / "demo" / "val" / "figures" / ".368b52a7.roc.png"  # what a killed evaluation left
    half.parent.mkdir(parents=True)
    half.touch()
    here("evaluate", "kept", "split=val")
    half.unlink()
    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    run = client.search_runs([experiment.experiment_id], "attributes.run_name = 'kept'")[0]
    found = kept_numbers(kept / "eval" / "demo" / "val")["metrics"]
    assert run.data.metrics["eval/demo/val/roc_auc"] == found["roc_auc"]
    assert run.info.status == "FINISHED"
    artifacts = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "eval/demo/val")}
    assert artifacts >= {"metrics.json", "predictions.parquet", "breakdown.csv", "figures"}
    figures = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "eval/demo/val/figures")}
    assert "roc.png" in figures
    assert not {name for name in figures if name.startswith(".")}


def test_a_folder_is_enough(alone: Path, here: Here, tmp_path: Path) -> None:
    said = here("evaluate", str(alone), f"tracking.uri=sqlite:///{tmp_path}/none.db")
    assert said.status == 0, said.err
    assert (alone / "eval" / "demo" / "figures" / "roc.png").is_file()
    assert not (tmp_path / "none.db").exists()


def test_the_store_is_enough(kept: Path, outputs: Path, here: Here, tmp_path: Path) -> None:
    away = shutil.move(kept, tmp_path / "away")
    try:
        said = here("evaluate", "kept", "split=train")
    finally:
        shutil.move(away, kept)
    assert said.status == 0, said.err
    (found,) = outputs.glob("artifacts/demo/*/artifacts/eval/demo/train/metrics.json")
    assert json.loads(found.read_text())["data"]["split"] == "train"


def test_other_data_of_the_same_name_is_kept_beside_it(kept: Path, demo: Path, here: Here, tmp_path: Path) -> None:
    rows = pd.read_parquet(kept / "manifest.parquet")
    for count in (6, 8, 6):
        file = table_of(demo, kept, tmp_path, rows.groupby("label").head(count // 2))
        said = here("evaluate", "kept", "dataset=table", f"dataset.table={file}")
        assert said.status == 0, said.err
    kept_there = {
        path.name: kept_numbers(path)["metrics"]["coverage/samples"] for path in (kept / "eval").glob("table*")
    }
    assert kept_there == {"table": 6, "table-some": 8}


def test_one_class_says_why_and_does_not_fail(kept: Path, demo: Path, here: Here, tmp_path: Path) -> None:
    rows = pd.read_parquet(kept / "manifest.parquet")
    file = table_of(demo, kept, tmp_path, rows[rows["label"] == 1].head(4))
    said = here("evaluate", "kept", "dataset=table", f"dataset.table={file}", "dataset.name=fakes")
    assert said.status == 0, said.err
    found = kept_numbers(kept / "eval" / "fakes")
    assert found["unavailable"]["roc_auc"] == "only fake samples"
    assert "roc_auc" not in found["metrics"]
    assert "accuracy" in found["metrics"]
    assert "only fake samples" in said.out


def test_too_little_scored_marks_the_numbers(kept: Path, demo: Path, here: Here, tmp_path: Path) -> None:
    rows = pd.read_parquet(kept / "manifest.parquet").groupby("label").head(3)
    file = table_of(demo, kept, tmp_path, rows)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with open(file, "a", encoding="utf-8") as table:
        table.write(f"{broken},1,test,c0\n")
    words = ("evaluate", "kept", "dataset=table", f"dataset.table={file}", "dataset.name=gaps", "--by", "camera")
    said = here(*words)
    assert said.status == 3, said.err
    breakdown = pd.read_csv(kept / "eval" / "gaps" / "breakdown.csv")
    assert breakdown.loc[breakdown["by"] == "camera", "group"].tolist() == ["c0", "c1"]
    coverage = kept_numbers(kept / "eval" / "gaps")["coverage"]
    assert (coverage["scored"], coverage["status_undecodable"], coverage["enough"]) == (6, 1, False)
    assert re.search(r"ROC-AUC +│ +[01]\.\d{4}\*", said.out)
    assert here(*words, "min_coverage=0.5").status == 0


def test_a_missing_column_names_those_there_are(kept: Path, here: Here) -> None:
    said = here("evaluate", "kept", "--by", "compresion")
    assert said.status == 2
    assert list(told(said)) == ["error", "hint"]
    assert "did you mean 'compression'" in said.err


def test_another_way_from_clips_to_a_score_is_fitted_and_named(kept: Path, here: Here) -> None:
    said = here("evaluate", "kept", "evaluation.clips=log_odds", "evaluation.threshold=f1", "dataset.name=again")
    assert said.status == 0, said.err
    found = kept_numbers(kept / "eval" / "again")
    assert (found["pooling"], found["decision"]["method"]) == ("log_odds", "f1")
    clips = pd.read_parquet(kept / "eval" / "again" / "clips.parquet")
    odds = clips.groupby("sample_id")["logit"].mean()
    scores = pd.read_parquet(kept / "eval" / "again" / "predictions.parquet").set_index("sample_id")["score"]
    np.testing.assert_allclose(scores[odds.index], 1 / (1 + np.exp(-odds)), rtol=1e-9)


def test_damage_gives_curves(kept: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: replace(KINDS[name], severities=KINDS[name].severities[-2:]) for name in ("JPEG", "H.264")}
    monkeypatch.setattr("deepfake.runs.evaluate.KINDS", few)
    said = here("evaluate", "kept", "--robustness", "dataset.name=damaged")
    assert said.status == 0, said.err
    found = pd.read_csv(kept / "eval" / "damaged" / "robustness.csv")
    assert found.groupby("kind")["severity"].apply(tuple).to_dict() == {
        name: kind.severities for name, kind in few.items()
    }
    assert found["value"].between(0, 1).all()
    assert (kept / "eval" / "damaged" / "figures" / "robustness.png").is_file()


def test_a_suite_gives_one_table_of_train_set_by_test_set(kept: Path, demo: Path, here: Here, tmp_path: Path) -> None:
    rows = pd.read_parquet(kept / "manifest.parquet").groupby("label").head(4)
    table_of(demo, kept, tmp_path, rows)
    suite = tmp_path / "suite.yaml"
    suite.write_text("- {dataset: demo, name: demo}\n- {dataset: table, table: some.csv, name: some}\n")
    said = here("evaluate", "kept", f"suite={suite}")
    assert said.status == 0, said.err
    assert "train set by test set" in said.out
    found = pd.read_csv(kept / "eval" / "suite.csv").set_index("tested_on")
    assert list(found.index) == ["demo", "some"]
    assert found["roc_auc"].between(0, 1).all()


def test_an_unfinished_run_is_refused(alone: Path, here: Here) -> None:
    (alone / "metrics.json").unlink()
    said = here("evaluate", str(alone))
    assert said.status == 2
    assert "never finished" in said.err


def test_deleted_weights_are_named(alone: Path, here: Here) -> None:
    (alone / "checkpoints" / "best.safetensors").unlink()
    said = here("evaluate", str(alone))
    assert said.status == 2
    assert "best.safetensors" in said.err
    assert "was deleted" in said.err


def test_weights_of_another_model_are_refused(alone: Path, here: Here) -> None:
    config = alone / "resolved.yaml"
    config.write_text(re.sub(r"hidden: 16", "hidden: 24", config.read_text()))
    said = here("evaluate", str(alone))
    assert said.status == 2
    assert "do not fit this model" in said.err


def test_weights_that_are_no_numbers_are_refused(alone: Path, here: Here) -> None:
    from safetensors.torch import load_file, save_file

    file = alone / "checkpoints" / "best.safetensors"
    weights = load_file(file)
    save_file(
        {name: tensor * float("nan") if tensor.is_floating_point() else tensor for name, tensor in weights.items()},
        file,
    )
    said = here("evaluate", str(alone))
    assert said.status == 2
    assert "scores are NaN" in said.err


def test_an_empty_part_names_the_others(kept: Path, demo: Path, here: Here, tmp_path: Path) -> None:
    rows = pd.read_parquet(kept / "manifest.parquet").groupby("label").head(3)
    file = table_of(demo, kept, tmp_path, rows)
    said = here("evaluate", "kept", "dataset=table", f"dataset.table={file}", "split=val")
    assert said.status == 2
    assert "the val part of table is empty" in said.err
    assert "test 6" in said.err


@pytest.mark.slow
def test_other_data_is_told_with_the_doubts_it_deserves(shared_data: Path, command: Command, here: Here) -> None:
    small = [text for text in SMALL if text.startswith("trainer.")]
    hardfake = ["dataset=images", f"dataset.root={shared_data / 'hardfake'}", "dataset.limit=200", "dataset.size=32"]
    model = ["model=cnn", "backbone=tiny", "name=shortcut"]
    done = command("train.py", *hardfake, *model, *small, "trainer.epochs=2")
    assert done.returncode == 0, done.stderr
    said = here("evaluate", "shortcut", "dataset=images", f"dataset.root={shared_data / 'dfdc_crops'}")
    assert said.status == 0, said.err
    # Its own published splits are none: all 67 pictures are test.
    assert "34 real + 33 fake" in said.out
    assert re.search(r"ROC-AUC +│ +[01]\.\d{4} │ [01]\.\d+ to [01]\.\d+", said.out)
    assert "another data set than the run was trained on" in said.err
    assert "framing alone tells the class" in said.err


def test_a_suite_with_published_numbers_is_kept_and_shown(kept: Path, demo: Path, here: Here, tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        "trained_on: the demo\nsets:\n  there: {dataset: demo, split: test}\n  absent: {dataset: celebdf, folder: X}\n"
        "published:\n  - {system: Other, paper: a paper, table: table 1, level: video, "
        "values: {there: 0.9, absent: 0.8}}\n"
    )
    said = here("evaluate", "kept", f"suite={suite}", f"suite.roots.there={demo}", f"suite.root={tmp_path}")
    assert said.status == 0, said.err
    assert "warning: absent is skipped: not in" in said.err
    assert "note: Other, video: a paper, table 1" in said.out
    found = pd.read_csv(kept / "eval" / "published.csv")
    assert found[["set", "system", "published"]].to_numpy().tolist() == [["there", "Other", 0.9]]
    assert found["ours"][0] == pytest.approx(kept_numbers(kept / "eval" / "there")["metrics"]["roc_auc"])
    assert "Beside published numbers" in (kept / "report.html").read_text()
