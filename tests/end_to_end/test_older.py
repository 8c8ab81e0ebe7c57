"""What an earlier version left is read and gone on with: a run, a study, a crop store, features, a logged model.

``tests/older/outputs.tar.xz`` is an outputs folder as commit 79be0ba made it, without the demo's videos, the figures
and the tracking database.
"""

from __future__ import annotations

import csv
import hashlib
import json
import lzma
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepfake.data.crop_records import read_records
from deepfake.data.crop_store import CropStore
from deepfake.training.features.feature_store import FeatureSpec, open_features
from tests import PROJECT

pytestmark = pytest.mark.slow

ARCHIVE = PROJECT / "tests" / "older" / "outputs.tar.xz"
#: As it was typed then, but for the place of the backbone's weights.
TYPED = ["demo.people=8", "demo.seconds=0.25", "demo.size=48", "dataset.size=16", "dataset.frames=2", "dataset.clips=1"]
TYPED += ["dataset.stride=1", "head=gru", "head.hidden=4", "backbone=tiny", "backbone.freeze=true", "features=cached"]
TYPED += ["augment=none", "trainer.epochs=1", "trainer.accelerator=cpu", "tracking.system_metrics=false"]
STUDY = ["tracking.log_model=false", "sweep.name=older", "optimizer.lr=interval(0.001,0.01)", "sampler=random"]


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    with lzma.open(ARCHIVE) as packed, tarfile.open(fileobj=packed) as files:
        files.extractall(folder, filter="data")
    return folder


def run(older: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DEEPFAKE_OUTPUTS": str(older), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, *words], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_study_is_gone_on_with(older: Path) -> None:
    trials = older / "sweeps" / "older" / "trials.csv"
    before = list(csv.DictReader(trials.open()))
    assert len(before) == 2
    weights = f"backbone.weights={older}/sparse.safetensors"
    done = run(older, "train.py", "-m", *TYPED, weights, *STUDY, "sweep.n_trials=3")
    after = list(csv.DictReader(trials.open()))
    assert [row["status"] for row in after] == ["completed"] * 3
    assert after[:2] == before
    assert after[2]["optimizer.lr"] not in {row["optimizer.lr"] for row in before}
    assert "goes on as a new run" in done.stderr


def test_a_crop_store_is_read(older: Path) -> None:
    (folder,) = (path for path in (older / "cache" / "crops").iterdir() if path.name == "5f3295e0a058dbbd7a5d")
    store = CropStore(folder, read_records(folder))
    digest = hashlib.sha256()
    for name in sorted(store.records):
        pixels, mask = store.clip(name, 0)
        digest.update(pixels.tobytes() + mask.tobytes())
    assert (len(store.records), len(store.frames)) == (24, 48)
    assert digest.hexdigest() == "6ead69966d276683cdd3c55934e3c2a1dac37d4cc88f98dc6c28e7546032cd0c"


def test_stored_features_are_opened(older: Path) -> None:
    (folder,) = (path for path in (older / "cache" / "features").iterdir() if path.name == "d9ea83a9583828a109f1")
    spec = FeatureSpec(**json.loads((folder / "features.json").read_text())["spec"])
    assert spec.key == folder.name
    features, reason = open_features(folder, spec, 48)
    assert features is not None, reason
    assert features.shape == (48, 128)


def test_a_run_scores_as_it_did(older: Path) -> None:
    folder = older / "runs" / "older"
    run(older, "-m", "deepfake.cli", "evaluate", str(folder))
    found = json.loads((folder / "eval" / "demo" / "metrics.json").read_text())["metrics"]
    saved = json.loads((folder / "metrics.json").read_text())["metrics"]
    told = {name: value for name, value in saved.items() if name.startswith("test/") and "/frame/" not in name}
    assert {name: found[name.removeprefix("test/")] for name in told} == pytest.approx(told, abs=1e-6)
    scores = pd.read_parquet(folder / "predictions.parquet").set_index("sample_id")["score"]
    again = pd.read_parquet(folder / "eval" / "demo" / "predictions.parquet").set_index("sample_id")["score"]
    np.testing.assert_allclose(again, scores[again.index], atol=1e-6)


def test_a_logged_model_gives_the_probabilities_that_it_gave(older: Path) -> None:
    from deepfake.tracking.serve import _load_pyfunc

    clips = np.random.default_rng(0).integers(0, 256, (3, 2, 3, 16, 16), dtype=np.uint8)
    found = _load_pyfunc(str(older / "model" / "data" / "detector")).predict(clips)
    np.testing.assert_allclose(found, [0.6428358554840088, 0.6498031616210938, 0.5914920568466187], atol=1e-6)
