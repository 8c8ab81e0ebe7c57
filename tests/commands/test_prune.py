"""What no living run refers to is freed, and what one refers to, or somebody is at work with, is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepfake.cli import main
from deepfake.data.crop_store import CropStore
from deepfake.presence import at_work
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import track
from deepfake.tracking.run_folder import RESOLVED, UNFINISHED, WEIGHTS, RunFolder
from deepfake.tracking.store import connect, local_folder, locate

QUIET = TrackingOptions(system_metrics=False)
SETTINGS = {"plan": {"temporal": True, "clips": 1, "frames": 4}, "faces": "none", "size": 32}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store for all: making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    connect(locate(TrackingOptions(), folder))
    return folder


@pytest.fixture
def outputs(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    shutil.copy(shared / "mlflow.db", outputs / "mlflow.db")
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(outputs))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return outputs


def crops(outputs: Path, key: str, size: int = 1 << 20) -> Path:
    folder = outputs / "cache" / "crops" / key
    folder.mkdir(parents=True)
    (folder / "store.json").write_text(json.dumps({"settings": SETTINGS, "datasets": {}}))
    (folder / "part-0.u8").write_bytes(np.zeros(size, np.uint8).tobytes())
    return folder


def features(outputs: Path, key: str) -> Path:
    folder = outputs / "cache" / "features" / key
    folder.mkdir(parents=True)
    (folder / "features.bin").write_bytes(b"x" * 4096)
    return folder


def probe(outputs: Path, key: str) -> Path:
    file = outputs / "cache" / "probes" / f"{key}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    return file


def run(outputs: Path, name: str, **given: Any) -> RunFolder:
    """A run's folder that refers to crops, features and probes."""
    folder = RunFolder(outputs / given.get("place", "runs") / name)
    (folder.path / RESOLVED).write_text(f"name: {name}\n")
    if "crops" in given:
        folder.write_provenance({"format": 1, "data": {"crops": given["crops"]}})
    folder.write_uses(given.get("more", ()), given.get("probes", ()))
    if "features" in given:
        folder.write_features(given["features"])
    return folder


def prune(*words: str) -> int:
    return main(["prune", "--yes", *words])


def test_what_no_run_refers_to_goes(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [crops(outputs, "a"), crops(outputs, "b"), crops(outputs, "c")]
    kept += [features(outputs, "fa"), probe(outputs, "pa")]
    gone = [crops(outputs, "x"), features(outputs, "fx"), probe(outputs, "px")]
    run(outputs, "one", crops="a", features=["fa"], probes=["pa"])
    run(outputs, "0", place="sweeps/s", more=["b"])
    evaluated = run(outputs, "two").path / "eval" / "demo"
    evaluated.mkdir(parents=True)
    (evaluated / "metrics.json").write_text(json.dumps({"data": {"crops": "c"}}))
    assert prune() == 0
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)
    assert "1.1 MB freed" in capsys.readouterr().out


def test_it_is_said_before(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = crops(outputs, "x")
    assert main(["prune", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "crops" in said
    assert "MB would be freed" in said
    assert main(["prune"]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert folder.is_dir()


def test_there_may_be_nothing_to_free(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crops(outputs, "a")
    run(outputs, "one", crops="a")
    assert prune() == 0
    assert "nothing to free" in capsys.readouterr().out


def test_where_there_are_no_outputs_there_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune(f"paths.outputs={tmp_path / 'none'}") == 0
    assert "nothing to free" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_crops_that_somebody_reads_are_left(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read, filled = crops(outputs, "r"), crops(outputs, "w")
    store = CropStore(read, {})
    with at_work(filled):
        assert prune() == 3
    assert "the crops r are in use" in capsys.readouterr().err
    assert read.is_dir()
    assert filled.is_dir()
    del store
    assert prune() == 0
    assert not read.exists()


def test_features_that_somebody_computes_are_left(outputs: Path) -> None:
    from filelock import FileLock

    folder = features(outputs, "f")
    with FileLock(folder.with_name("f.lock")):
        assert prune() == 3
    assert folder.is_dir()
    assert prune() == 0
    assert not folder.exists()


@pytest.fixture
def tracked(outputs: Path) -> Callable[..., tuple[str, Path, Path]]:
    """A run in MLflow with its folder: its id, its folder, its artifacts."""

    def tracked(name: str, **given: Any) -> tuple[str, Path, Path]:
        store = locate(TrackingOptions(), outputs)
        folder = run(outputs, name, **given)
        folder.best_weights.parent.mkdir()
        folder.best_weights.write_bytes(os.urandom(1 << 16))
        with track(store, "e", name, folder=folder.path, tags={"run_dir": folder.path}, options=QUIET) as log:
            log.folder(folder.path, skip=UNFINISHED)
        artifacts = local_folder(connect(store).get_run(log.id).info.artifact_uri)
        assert artifacts is not None
        return log.id, folder.path, artifacts

    return tracked


def test_artifacts_of_deleted_runs_go_and_their_folders_stay(
    outputs: Path, tracked: Callable[..., tuple[str, Path, Path]]
) -> None:
    crops(outputs, "a")
    (gone, folder, artifacts), (_, _, others) = tracked("gone", crops="a"), tracked("stays")
    connect(locate(TrackingOptions(), outputs)).delete_run(gone)
    assert prune() == 0
    assert not artifacts.exists()
    assert (others / WEIGHTS).is_file()
    assert (folder / WEIGHTS).is_file()
    # Its folder still refers to them.
    assert (outputs / "cache" / "crops" / "a").is_dir()


def test_a_run_whose_folder_was_moved_lives_by_its_artifacts(
    outputs: Path, tracked: Callable[..., tuple[str, Path, Path]], tmp_path: Path
) -> None:
    store = crops(outputs, "a")
    _, folder, artifacts = tracked("moved", crops="a")
    folder.rename(tmp_path / "moved")
    assert prune() == 0
    assert store.is_dir()
    assert (artifacts / WEIGHTS).is_file()


def test_a_run_that_is_gone_in_both_places_refers_to_nothing(
    outputs: Path, tracked: Callable[..., tuple[str, Path, Path]]
) -> None:
    store = crops(outputs, "a")
    gone, folder, artifacts = tracked("gone", crops="a")
    shutil.rmtree(folder)
    connect(locate(TrackingOptions(), outputs)).delete_run(gone)
    assert prune() == 0
    assert not store.exists()
    assert not artifacts.exists()


def test_artifacts_that_an_ensemble_needs_stay(outputs: Path, tracked: Callable[..., tuple[str, Path, Path]]) -> None:
    member, folder, artifacts = tracked("member")
    shutil.rmtree(folder)
    connect(locate(TrackingOptions(), outputs)).delete_run(member)
    told = {"name": "member", "run_id": member, "folder": str(folder), "weights": "", "metrics": {}}
    RunFolder(outputs / "runs" / "joined").write_members({"format": 1, "members": [told]})
    assert prune() == 0
    assert (artifacts / WEIGHTS).is_file()


def test_a_run_that_does_not_say_what_it_needs_keeps_everything(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = crops(outputs, "x")
    (run(outputs, "broken").path / "provenance.json").write_text("{")
    assert prune() == 2
    assert "nobody knows what its run needs" in capsys.readouterr().err
    assert store.is_dir()


def test_downloads_of_runs_that_are_gone_go(outputs: Path, tracked: Callable[..., tuple[str, Path, Path]]) -> None:
    there, _, _ = tracked("there")
    for name in (there, "0" * 32, "not-a-run"):
        (outputs / "cache" / "artifacts" / name).mkdir(parents=True)
    assert prune() == 0
    left = sorted(path.name for path in (outputs / "cache" / "artifacts").iterdir())
    assert left == sorted([there, "not-a-run"])


def test_a_link_in_the_cache_is_left(outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "features.bin").write_text("theirs")
    (outputs / "cache" / "features").mkdir(parents=True)
    (outputs / "cache" / "features" / "linked").symlink_to(tmp_path / "theirs")
    assert prune() == 3
    assert (tmp_path / "theirs" / "features.bin").is_file()


def test_a_backbone_that_no_model_is_made_of_goes(outputs: Path) -> None:
    folder = outputs / "cache" / "backbones"
    folder.mkdir(parents=True)
    for name in ("used", "unused"):
        (folder / f"{name}.safetensors").write_bytes(b"weights")
    os.link(folder / "used.safetensors", outputs / "model.safetensors")
    with at_work(folder):
        assert prune() == 3
    assert prune() == 0
    assert [path.name for path in folder.glob("*.safetensors")] == ["used.safetensors"]
