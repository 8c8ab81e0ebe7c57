"""Two trained runs as one: made, evaluated, asked about files, and refused where only a trained run will do."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.end_to_end.conftest import SMALL, Command
from tests.end_to_end.using import Here, told

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def both(kept: Path, command: Command) -> Path:
    """An ensemble of ``kept`` and of a run with another head, other crops and another way to place frames."""
    other = ["dataset.size=40", "model=cnn", "seed=1", "name=other"]
    done = command("train.py", *(word for word in SMALL if not word.startswith(("dataset.size", "head."))), *other)
    assert done.returncode == 0, done.stderr
    done = command("-m", "deepfake.cli", "ensemble", "kept", "other", "name=both")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.rpartition("run: ")[2].strip())


def test_evaluated_on_its_own_data_it_has_the_numbers_it_was_made_with(both: Path, here: Here) -> None:
    said = here("evaluate", "both")
    assert said.status == 0, said.err
    found = json.loads((both / "eval" / "demo" / "metrics.json").read_text())["metrics"]
    made = json.loads((both / "metrics.json").read_text())["metrics"]
    for name in ("roc_auc", "accuracy", "log_loss_calibrated"):
        assert found[name] == pytest.approx(made[f"test/{name}"], abs=1e-6), name
    clips = pd.read_parquet(both / "eval" / "demo" / "clips.parquet")
    assert clips.groupby("member")["clip"].nunique().to_dict() == {0: 2, 1: 1}


def test_a_file_gets_its_stored_score_and_each_members(both: Path, here: Here) -> None:
    manifest = pd.read_parquet(both / "manifest.parquet").set_index("sample_id")
    stored = pd.read_parquet(both / "predictions.parquet").set_index("sample_id")["score"]
    name = next(name for name in stored.index if manifest.loc[name, "label"] == 0)
    root = json.loads((both / "provenance.json").read_text())["data"]["roots"]["demo"]
    said = here("predict", "both", f"{root}/{manifest.loc[name, 'path']}", "--json")
    assert said.status == 0, said.err
    (result,) = json.loads(said.out)["results"]
    assert result["score"] == pytest.approx(stored[name], abs=1e-6)
    assert [one["run"] for one in result["members"]] == ["kept", "other"]


def test_damage_is_done_to_each_members_crops(both: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from deepfake.data.corruptions import KINDS

    few = {"JPEG": replace(KINDS["JPEG"], severities=KINDS["JPEG"].severities[-1:])}
    monkeypatch.setattr("deepfake.runs.evaluate.KINDS", few)
    assert here("evaluate", "both", "--robustness", "dataset.name=damaged").status == 0
    assert len(pd.read_csv(both / "eval" / "damaged" / "robustness.csv")) == 1


def test_it_is_compared_like_any_run(both: Path, here: Here, tmp_path: Path) -> None:
    said = here("compare", "both", "kept", "--out", str(tmp_path), "--csv")
    assert said.status == 0, said.err
    assert set(pd.read_csv(tmp_path / "comparison.csv")["run"]) == {"both", "kept"}


@pytest.mark.parametrize("verb", ["reproduce", "capsule"])
def test_what_runs_again_names_its_members(both: Path, here: Here, verb: str) -> None:
    said = here(verb, "both")
    assert said.status == 2
    assert list(told(said)) == ["error", "hint"]
    assert "it is an ensemble of kept (" in said.err


def test_from_python(both: Path, kept: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import deepfake

    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(outputs))
    made = deepfake.ensemble([kept, "other"], name="again")
    assert made.metrics["test/roc_auc"] == json.loads((both / "metrics.json").read_text())["metrics"]["test/roc_auc"]
    detector = made.load()
    assert len(detector.models) == 2
    with pytest.raises(deepfake.UserError, match="is an ensemble of 2 models"):
        _ = detector.model
