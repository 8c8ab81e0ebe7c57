"""One run from the command line, and what it leaves behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.end_to_end.conftest import SMALL, Command

RUN_FILES = {
    "config.yaml",
    "resolved.yaml",
    "overrides.yaml",
    "provenance.json",
    "manifest.parquet",
    "predictions.parquet",
    "metrics.json",
}


@pytest.fixture(scope="module")
def trained(command: Command) -> Path:
    done = command("train.py", *SMALL, "name=end to end")
    assert done.returncode == 0, done.stderr
    found = re.search(r"^run: (.+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return Path(found[1])


def test_the_run_folder_holds_what_it_takes_to_run_again(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= RUN_FILES
    assert (trained / "checkpoints" / "best.safetensors").exists()


def test_every_sample_of_val_and_test_has_a_row(trained: Path) -> None:
    predictions = pd.read_parquet(trained / "predictions.parquet")
    manifest = pd.read_parquet(trained / "manifest.parquet")
    assert set(predictions["sample_id"]) == set(manifest.loc[manifest["split"] != "train", "sample_id"])


def test_the_figures_are_drawn(trained: Path) -> None:
    figures = {path.stem for path in (trained / "figures").glob("*.png")}
    assert figures >= {"learning_curves", "roc", "precision_recall", "confusion_matrix", "score_histogram"}


def test_mlflow_holds_the_run(trained: Path, outputs: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    run = client.search_runs([experiment.experiment_id], "attributes.run_name = 'end to end'")[0]
    stored = json.loads((trained / "metrics.json").read_text())["metrics"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/roc_auc"] == stored["test/roc_auc"]
    assert run.data.params["trainer.batch_size"] == "8"
    assert run.inputs.dataset_inputs
    assert any(name.startswith("system/") for name in run.data.metrics)
    assert {item.path for item in client.list_artifacts(run.info.run_id)} >= RUN_FILES | {"figures", "checkpoints"}


def test_the_audit_is_kept_and_tracked(trained: Path, outputs: Path) -> None:
    from mlflow import MlflowClient

    found = json.loads((trained / "audit.json").read_text())
    assert found["samples"]["train"] == {"real": 6, "fake": 12}
    assert all(f"warning: {warning}" in (trained / "audit.txt").read_text() for warning in found["warnings"])
    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    run = client.search_runs([client.get_experiment_by_name("demo").experiment_id], f"tags.run_dir = '{trained}'")[0]
    assert found["warnings"][0] in run.data.tags["mlflow.note.content"]
    assert not [tag for tag in run.data.tags if tag.startswith(("audit.warning.", "choice."))]


def test_the_same_command_gives_the_same_numbers(trained: Path, command: Command) -> None:
    again = command("train.py", *SMALL, "name=again", "trainer.num_workers=1")
    assert again.returncode == 0, again.stderr
    folder = Path(re.search(r"^run: (.+)$", again.stdout, re.MULTILINE)[1])  # type: ignore[index]
    one = pd.read_parquet(trained / "predictions.parquet")
    two = pd.read_parquet(folder / "predictions.parquet")
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_files_that_cannot_be_read_are_listed_with_their_reason(
    trained: Path, command: Command, outputs: Path, tmp_path: Path
) -> None:
    for label, method in (("real", "youtube"), ("fake", "SyntheticBlend")):
        (tmp_path / label).mkdir()
        # Another demo of the session may lie in the same cache, with the same file names.
        for number, path in enumerate(sorted((outputs / "cache" / "demo").rglob(f"{method}/c23/videos/*.mp4"))[:12]):
            shutil.copy(path, tmp_path / label / f"{label}_{number}.mp4")
    (tmp_path / "real" / "nothing.mp4").touch()
    own = ["dataset=videos", f"dataset.root={tmp_path}", "dataset.faces=none", "backbone=tiny"]
    done = command("train.py", *own, *[text for text in SMALL if not text.startswith("demo.")])
    assert done.returncode == 0, done.stderr
    assert "1 of 25 samples cannot be used" in done.stderr
    folder = Path(re.search(r"^run: (.+)$", done.stdout, re.MULTILINE)[1])  # type: ignore[index]
    failures = pd.read_csv(folder / "failures.csv")
    assert failures[["sample_id", "status"]].to_numpy().tolist() == [["videos/real/nothing", "empty"]]


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.batch_size=0"],
        ["model=cnn_lstn"],
        ["trainer.batchsize=3"],
        ["optimizer.lr=fast"],
        ["dataset=images", "dataset.root=/nowhere/at/all"],
        ["dataset=images"],
        ["backbone.name=resnet5O"],
    ],
)
def test_a_mistake_ends_in_two_lines_and_status_2(overrides: list[str], command: Command, outputs: Path) -> None:
    before = sorted((outputs / "runs").glob("*"))
    done = command("train.py", *overrides)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = [line.split(":")[0] for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    assert lines == ["error", "hint"]
    assert sorted((outputs / "runs").glob("*")) == before
