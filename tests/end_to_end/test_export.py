"""A run as a folder: what reads it says what ``deepfake predict`` says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from deepfake.errors import UserError
from deepfake.reading import Detector
from deepfake.reading.cli import main
from tests.end_to_end.conftest import Command
from tests.end_to_end.using import Here, told

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


@pytest.fixture(scope="module")
def exported(kept: Path, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run ``kept`` as a folder, with a graph of 8 bits."""
    folder = tmp_path_factory.mktemp("exported") / "kept"
    done = command("-m", "deepfake.cli", "export", "kept", str(folder), "--quantize", "int8")
    assert done.returncode == 0, done.stderr
    assert "ROC-AUC" in done.stdout
    return folder


@pytest.fixture(scope="module")
def files(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Videos of the run, pictures, and what has no answer."""
    roots = json.loads((kept / "provenance.json").read_text())["data"]["roots"]
    table = pd.read_parquet(kept / "manifest.parquet")
    videos = [str(Path(roots["demo"]) / path) for path in table.groupby("label")["path"].first()]
    folder = tmp_path_factory.mktemp("files")
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    assert cv2.imwrite(str(folder / "picture.png"), picture)
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (folder / "notes.txt").write_text("text")
    named = ["picture.png", "text.mp4", "empty.mp4", "cut.jpg", "notes.txt", "nowhere.mp4"]
    return [*videos, *(str(folder / name) for name in named)]


def same(found: Any, expected: Any) -> None:
    """All of an answer agrees, numbers to 1e-4."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


def test_the_reader_says_all_that_predict_says(exported: Path, files: list[str], here: Here) -> None:
    said = here("predict", "kept", "--json", *files)
    assert said.status == 3
    expected = json.loads(said.out)
    assert {one["reason"]["code"] for one in expected["results"] if one["reason"]} >= {"undecodable", "not_found"}
    detector = Detector.load(exported)
    same(detector.document(detector.predict_all(files)), expected)
    same(detector.predict(files[0]), expected["results"][0])


def test_the_reader_has_a_command(exported: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(exported), files[0]]) == 0
    assert f"{files[0]}: " in capsys.readouterr().out
    assert main([str(exported), "--json", "--int8", files[0], "nowhere.mp4"]) == 3
    assert [one["path"] for one in json.loads(capsys.readouterr().out)["results"]] == [files[0], "nowhere.mp4"]
    assert main([str(exported / "faces"), files[0]]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_folder_says_what_it_is(exported: Path, kept: Path) -> None:
    assert not (exported / "faces").exists()  # the run looks for none
    described = json.loads((exported / "config.json").read_text())
    assert described["decision"] == json.loads((kept / "calibration.json").read_text())
    int8 = described["onnx"]["int8"]
    assert int8["split"] == "test"
    assert int8["samples"] > 0
    assert {"onnx", "onnxscript", "onnxruntime"} <= set(described["written_by"]["packages"])
    # As readable as any file that is written here: a container may read as another user.
    (exported / "other").touch()
    modes = {path.stat().st_mode for path in exported.iterdir() if path.is_file()}
    (exported / "other").unlink()
    assert len(modes) == 1
    assert (exported / "model.int8.onnx").stat().st_size < (exported / "model.onnx").stat().st_size
    assert described["onnx"]["parity"]["logits_apart"] <= 1e-4
    _, front, card = (exported / "README.md").read_text().split("---\n", 2)
    read = yaml.safe_load(front)
    assert read["pipeline_tag"] == "video-classification"
    metrics = json.loads((kept / "metrics.json").read_text())["metrics"]
    told = {one["type"]: one["value"] for one in read["model-index"][0]["results"][0]["metrics"]}
    assert told["accuracy"] == pytest.approx(metrics["test/accuracy_fitted"], abs=1e-5)
    assert told["roc_auc"] == pytest.approx(metrics["test/roc_auc"], abs=1e-5)
    for heading in ("Trained on", "How well it does", "What it is not good for", "Terms"):
        assert f"## {heading}" in card
    assert f"{metrics['test/roc_auc']:.3f}" in card


def test_weights_make_the_detector_again(exported: Path, kept: Path) -> None:
    from safetensors.torch import load_file

    trained, found = load_file(kept / "checkpoints" / "best.safetensors"), load_file(exported / "model.safetensors")
    assert all((found[name] == value).all() for name, value in trained.items())


def test_an_altered_folder_is_refused(exported: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(exported, tmp_path / "copied"))
    with (copied / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with pytest.raises(UserError, match=r"model\.safetensors was altered"):
        Detector.load(copied)


def test_what_cannot_be_exported_leaves_nothing(kept: Path, here: Here, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    cases = [
        (("export", "kept", str(tmp_path / "full")), "is there already"),
        (("export", "kept", str(tmp_path / "none" / "folder")), "there is no folder"),
        (("export", "nosuchrun", str(tmp_path / "new")), "nosuchrun"),
        (("export", "kept", str(tmp_path / "new"), "--quantize", "int8", "dataset.root=/nowhere"), "/nowhere"),
    ]
    for words, why in cases:
        said = here(*words)
        assert said.status == 2
        assert told(said) == ["error", "hint"]
        assert why in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_a_killed_making_leaves_nothing(
    kept: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deepfake.runs.export.model_card", interrupted)
    assert here("export", "kept", str(tmp_path / "new")).status == 130
    assert not [*tmp_path.iterdir()]


def test_reading_needs_neither_torch_nor_tables(exported: Path, files: list[str], command: Command) -> None:
    code = (
        "import sys; from deepfake.reading import Detector; "
        f"print(Detector.load({str(exported)!r}).predict({files[0]!r})['class'], "
        "*sorted({'torch', 'pandas', 'mlflow', 'hydra', 'sklearn'} & {*sys.modules}))"
    )
    done = command("-c", code, fresh=True)
    assert done.stdout.strip() in ("REAL", "FAKE"), done.stderr
