"""A run that trains a part of a pretrained backbone, and what is done with it afterwards."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.end_to_end.conftest import SMALL, Command
from tests.end_to_end.using import Here

VIT = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that stands for pretrained weights."""
    from deepfake.models.backbone import create_backbone
    from deepfake.models.options import BackboneOptions

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "vit.pth"
    torch.save(create_backbone(BackboneOptions(VIT, pretrained=False), 32).model.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def adapted(command: Command, weights: Path) -> Path:
    """The folder of a run that was trained by low-rank additions."""
    small = [word for word in SMALL if not word.startswith("head.")]
    chosen = [f"backbone.name={VIT}", f"backbone.weights={weights}", "backbone.tune=lora", "backbone.lora_rank=2"]
    done = command("train.py", *small, "model=cnn", *chosen, "name=adapted")
    assert done.returncode == 0, done.stderr
    found = re.search(r"^run: (.+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return Path(found[1])


def test_the_run_keeps_what_it_trained(adapted: Path, weights: Path) -> None:
    kept = adapted / "checkpoints"
    assert [file.name for file in kept.iterdir()] == ["best.safetensors"]
    assert (kept / "best.safetensors").stat().st_size < weights.stat().st_size / 10


def test_it_scores_its_own_data_as_it_did(adapted: Path, here: Here) -> None:
    said = here("evaluate", "adapted")
    assert said.status == 0, said.err
    keys = ["sample_id", "score"]
    tables = [pd.read_parquet(place / "predictions.parquet") for place in (adapted, adapted / "eval" / "demo")]
    then = tables[0][tables[0]["split"] == "test"][keys].set_index("sample_id")
    pd.testing.assert_frame_equal(tables[1][keys].set_index("sample_id").loc[then.index], then, atol=1e-6)


def test_it_predicts(adapted: Path, here: Here) -> None:
    demo = json.loads((adapted / "provenance.json").read_text())["data"]["roots"]["demo"]
    said = here("predict", "adapted", "--json", demo)
    assert said.status == 0, said.err


def test_it_is_reproduced(adapted: Path, here: Here) -> None:
    said = here("reproduce", "adapted")
    assert said.status == 0, said.err + said.out


def test_what_mlflow_has_is_whole(adapted: Path, outputs: Path) -> None:
    from mlflow import MlflowClient, pyfunc, set_tracking_uri

    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    set_tracking_uri(uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("demo")
    run = client.search_runs([experiment.experiment_id], "attributes.run_name = 'adapted'")[-1]
    model = pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    demo = json.loads((adapted / "provenance.json").read_text())["data"]["roots"]["demo"]
    video = next(Path(demo).rglob("*.mp4"))
    (said,) = model.predict(pd.DataFrame({"path": [str(video)]}))
    assert said["class"] in ("REAL", "FAKE")


def test_a_capsule_brings_the_run_that_additions_began_on(command: Command, tmp_path: Path, here: Here) -> None:
    small = [word for word in SMALL if not word.startswith("head.")]
    chosen = [*small, "model=cnn", f"backbone.name={VIT}", "backbone.pretrained=false", "tracking.log_model=false"]
    for words in (["backbone.freeze=true", "name=head"], ["backbone.tune=lora", "trainer.init_from=head", "name=on"]):
        done = command("train.py", *chosen, *words)
        assert done.returncode == 0, done.stderr
    said = here("capsule", "on", "--output", str(tmp_path / "on.zip"))
    assert said.status == 0, said.err
    assert "ancestor: head (trainer.init_from)" in said.out
    assert "not in the capsule" not in said.err


def test_without_the_base_it_is_refused(adapted: Path, weights: Path, here: Here) -> None:
    away = weights.rename(weights.with_suffix(".away"))
    try:
        said = here("evaluate", "adapted")
    finally:
        away.rename(weights)
    assert said.status == 2
    assert "and the rest cannot be had" in said.err


def test_the_base_may_lie_elsewhere_and_must_be_the_same(
    adapted: Path, weights: Path, tmp_path: Path, here: Here
) -> None:
    other = torch.load(weights, weights_only=True)
    other["blocks.3.mlp.fc1.weight"][0, 0] += 1
    torch.save(other, tmp_path / "other.pth")
    moved = weights.rename(tmp_path / "moved.pth")
    try:
        found = here("evaluate", "adapted", f"backbone.weights={moved}")
        refused = here("evaluate", "adapted", f"backbone.weights={tmp_path / 'other.pth'}")
    finally:
        moved.rename(weights)
    assert found.status == 0, found.err
    assert refused.status == 2
    assert "another backbone's weights" in refused.err
