"""What a trained run says of files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from tests.end_to_end.conftest import Command
from tests.end_to_end.using import Here


@pytest.fixture(scope="module")
def demo(kept: Path) -> Path:
    """The folder of the videos that the run was trained on."""
    return Path(json.loads((kept / "provenance.json").read_text())["data"]["roots"]["demo"])


@pytest.fixture(scope="module")
def video(kept: Path, demo: Path) -> Path:
    """A real video of the test split."""
    table = pd.read_parquet(kept / "manifest.parquet")
    return demo / table[(table["split"] == "test") & (table["label"] == 0)]["path"].iloc[0]


def test_a_video_of_the_run_gets_its_stored_score(kept: Path, demo: Path, here: Here) -> None:
    said = here("predict", "kept", "--json", str(demo))
    assert said.status == 0
    found = {Path(one["path"]).resolve(): one["score"] for one in json.loads(said.out)["results"]}
    paths = pd.read_parquet(kept / "manifest.parquet").set_index("sample_id")["path"]
    stored = pd.read_parquet(kept / "predictions.parquet")
    assert len(found) == len(paths)
    for row in stored.itertuples():
        assert found[(demo / paths[row.sample_id]).resolve()] == pytest.approx(row.score, abs=1e-5)


def test_the_call_and_probability_are_those_of_the_runs_calibration(kept: Path, demo: Path, here: Here) -> None:
    from deepfake.training.decision import load_decision

    decision = load_decision(json.loads((kept / "calibration.json").read_text()))
    answer = json.loads(here("predict", "kept", "--json", str(demo)).out)
    assert answer["threshold"] == decision.threshold
    scores = np.array([one["score"] for one in answer["results"]])
    assert [one["class"] for one in answer["results"]] == np.where(
        decision.predicts_fake(scores), "FAKE", "REAL"
    ).tolist()
    np.testing.assert_allclose([one["probability"] for one in answer["results"]], decision.calibrated(scores))


@pytest.mark.parametrize("calibration", ["platt", "isotonic"])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_classes_and_probabilities_agree_about_the_threshold_that_is_told(
    kept: Path, demo: Path, here: Here, calibration: str, threshold: float
) -> None:
    asked = [f"evaluation.calibration={calibration}", "evaluation.threshold=fixed", f"trainer.threshold={threshold}"]
    answer = json.loads(here("predict", "kept", "--json", str(demo), *asked).out)
    cut = answer["threshold_probability"]
    assert (answer["threshold"], answer["calibration"]) == (threshold, calibration)
    for one in answer["results"]:
        fake = one["class"] == "FAKE"
        assert one["probability"] >= cut if fake else one["probability"] <= cut
        assert one["tied"] == (one["probability"] == cut)
        assert one["confidence"] == (one["probability"] if fake else 1 - one["probability"])


def test_the_table_tells_the_threshold_as_a_probability(kept: Path, video: Path, here: Here) -> None:
    asked = ["evaluation.threshold=fixed", "trainer.threshold=0.99"]
    cut = json.loads(here("predict", "kept", "--json", str(video), *asked).out)["threshold_probability"]
    assert f"from a probability of {cut:.4f} on" in " ".join(here("predict", "kept", str(video), *asked).out.split())


def test_what_cannot_be_answered_says_why_and_stops_nothing(video: Path, here: Here, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short \xff\xda")
    names = ["empty.mp4", "broken.mp4", "notes.txt", "cut.jpg", "missing.mp4"]
    said = here("predict", "kept", "--json", *(str(tmp_path / name) for name in names), str(video))
    assert said.status == 3
    *failed, answered = json.loads(said.out)["results"]
    reasons = [one["reason"]["code"] for one in failed]
    assert reasons == ["empty", "undecodable", "unsupported", "undecodable", "not_found"]
    assert all(one["class"] is None and one["score"] is None and one["probability"] is None for one in failed)
    assert answered["class"] in ("REAL", "FAKE")


def test_no_face_is_no_answer(here: Here, kept: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    said = here("predict", "kept", "--json", str(tmp_path / "noise.png"), "dataset.faces=mtcnn")
    (answer,) = json.loads(said.out)["results"]
    assert said.status == 3
    assert (answer["reason"]["code"], answer["class"], answer["probability"]) == ("no_face", None, None)


def test_the_table_names_every_file(video: Path, kept: Path, here: Here) -> None:
    said = here("predict", "kept", str(video), "/nowhere/missing.mp4")
    assert said.status == 3
    assert video.name in said.out
    assert "not_found" in said.out


def test_json_is_all_there_is_on_standard_output(kept: Path, video: Path, command: Command) -> None:
    done = command("-m", "deepfake.cli", "predict", str(kept), "--json", str(video))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["schema"] == "deepfake/predict/1"
    fields = {"path", "kind", "class", "probability", "score", "spread", "faces", "reason", "confidence", "tied"}
    fields |= {"media", "outside"}
    assert set(answer["results"][0]) == fields


def test_nothing_named_is_a_mistake(kept: Path, here: Here) -> None:
    said = here("predict", "kept", "trainer.batch_size=2")
    assert said.status == 2
    assert "nothing to look at" in said.err


def test_an_empty_name_is_a_mistake(kept: Path, video: Path, here: Here) -> None:
    said = here("predict", "kept", str(video), "")
    assert said.status == 2
    assert "one of the names is empty" in said.err


def test_files_that_are_none_and_names_like_protocols(
    kept: Path, video: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile list.mp4\n")
    (tmp_path / "12:30:00.mp4").write_bytes(video.read_bytes())
    (tmp_path / "circle").symlink_to("..")
    monkeypatch.chdir(tmp_path)
    said = here("predict", "kept", "--json", ".")
    assert said.status == 3
    reasons = {one["path"]: one["reason"] and one["reason"]["code"] for one in json.loads(said.out)["results"]}
    assert reasons == {
        "12:30:00.mp4": None,
        "list.mp4": "undecodable",
        "loop.mp4": "missing",
        "pipe.mp4": "not_a_file",
        "zero.png": "not_a_file",
    }


def test_a_file_that_takes_longer_than_it_may_has_no_answer(kept: Path, video: Path, here: Here) -> None:
    said = here("predict", "kept", "--json", str(video), "dataset.file_timeout=1e-9")
    (answer,) = json.loads(said.out)["results"]
    assert said.status == 3
    assert answer["reason"]["code"] == "timeout"
