"""What is written of a file beyond its answer."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest

from tests.end_to_end.using import Here


@pytest.fixture(scope="module")
def video(kept: Path) -> Path:
    """A video of the test split."""
    demo = Path(json.loads((kept / "provenance.json").read_text())["data"]["roots"]["demo"])
    table = pd.read_parquet(kept / "manifest.parquet")
    return demo / table[table["split"] == "test"]["path"].iloc[0]


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    video: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()

    def looked(*words: object, **named: object) -> None:
        raise AssertionError("worked first")

    monkeypatch.setattr("deepfake.runs.explanation.predict_inputs", looked)
    said = here("explain", "kept", str(video), "--out", str(tmp_path / "file" / "why"))
    assert said.status == 2
    assert "is no folder" in said.err


def test_a_video_is_explained_in_one_folder(video: Path, here: Here, tmp_path: Path) -> None:
    out = tmp_path / "why"
    said = here("explain", "kept", str(video), "--out", str(out), "--json")
    assert said.status == 0
    numbers = json.loads((out / "explanation.json").read_text())
    assert numbers == json.loads(said.out)
    assert numbers["schema"] == "deepfake/explain/1"
    predicted = json.loads(here("predict", "kept", "--json", str(video)).out)["results"][0]
    assert numbers["result"] == predicted
    count = predicted["media"]["frames"]
    # Eight frames each: 24 frames are three clips without a gap.
    assert sorted({moment["frame"] for moment in numbers["timeline"]}) == list(range(count))
    with av.open(str(out / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == count
    for one in numbers["suspicious"]:
        assert cv2.imread(str(out / one["picture"])) is not None
    page = (out / "report.html").read_text()
    assert "Content-Security-Policy" in page
    assert page.count("data:image/jpeg") == len(numbers["suspicious"])
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_a_picture_is_explained_by_a_picture(video: Path, here: Here, tmp_path: Path) -> None:
    with av.open(str(video)) as container:
        image = next(container.decode(video=0)).to_ndarray(format="bgr24")
    still = tmp_path / "still.png"
    cv2.imwrite(str(still), image)
    out = tmp_path / "why"
    assert here("explain", "kept", str(still), "--out", str(out)).status == 0
    numbers = json.loads((out / "explanation.json").read_text())
    assert len(numbers["timeline"]) == 1
    assert numbers["timeline"][0]["reliance"] is None
    painted = cv2.imread(str(out / "overlay.png"))
    assert max(painted.shape[:2]) == 480
    assert not (out / "overlay.mp4").exists()


def test_without_a_folder_it_is_written_among_the_outputs(video: Path, here: Here) -> None:
    said = here("explain", "kept", str(video))
    assert said.status == 0
    page = Path(said.out.strip().rsplit("explanation: ", 1)[1])
    assert page.parent.parent.name == "explanations"
    assert page.parent.name.endswith(video.stem)


def test_what_has_no_answer_has_no_explanation(kept: Path, here: Here, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    out = tmp_path / "why"
    said = here("explain", "kept", str(tmp_path / "text.mp4"), "--out", str(out))
    assert said.status == 3
    assert "undecodable" in said.out
    assert not out.exists()


def test_one_file_is_explained_at_a_time(video: Path, here: Here, tmp_path: Path) -> None:
    said = here("explain", "kept", str(video), str(video))
    assert said.status == 2
    assert "one is explained at a time" in said.err


def test_a_stated_prior_moves_the_probability_and_nothing_else(video: Path, here: Here) -> None:
    own = json.loads(here("predict", "kept", "--json", str(video)).out)
    rare = json.loads(here("predict", "kept", "--json", "--prior", "0.01", str(video)).out)
    assert rare["prior"] == {"stated": 0.01, "fitted": own["prior"]["fitted"]}
    before, after = own["results"][0], rare["results"][0]
    odds = [p / (1 - p) for p in (before["probability"], after["probability"], own["prior"]["fitted"], 0.01)]
    assert odds[1] == pytest.approx(odds[0] / odds[2] * odds[3], rel=1e-6)
    assert (before["class"], before["score"]) == (after["class"], after["score"])
    assert here("predict", "kept", "--prior", "1", str(video)).status == 2


def test_a_csv_has_a_row_for_each_file(video: Path, here: Here, tmp_path: Path) -> None:
    import io

    (tmp_path / "text.mp4").write_text("no video")
    said = here("predict", "kept", "--csv", str(video), str(tmp_path / "text.mp4"))
    assert said.status == 3
    table = pd.read_csv(io.StringIO(said.out))
    assert len(table) == 2
    assert table["reason_code"].isna().tolist() == [True, False]
    assert np.isfinite(table["score"].iloc[0])
    assert np.isnan(table["score"].iloc[1])
