"""What is looked at, in which order, and what is answered of each file."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from deepfake.commands.predict import _table
from deepfake.errors import UserError
from deepfake.reading.file_answers import Answer, Input, read_score
from deepfake.runs.answers import Originals
from deepfake.runs.inputs import expand_inputs
from deepfake.tracking.run_record import RunRecord
from deepfake.training.calibration import Calibrator, Isotonic, Platt
from deepfake.training.decision import Decision


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_files_come_in_the_order_named(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a.jpg")
    found = expand_inputs([str(tmp_path / "b.mp4"), str(tmp_path / "a.jpg"), str(tmp_path / "b.mp4")])
    assert [(one.path.name, one.kind) for one in found] == [("b.mp4", "video"), ("a.jpg", "image"), ("b.mp4", "video")]


def test_a_folder_gives_its_videos_and_images_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "z.mp4", "notes.txt", "inner/a.png", ".hidden.mp4")
    assert [one.path.relative_to(tmp_path).as_posix() for one in expand_inputs([str(tmp_path)])] == [
        "inner/a.png",
        "z.mp4",
    ]


def test_a_glob_gives_its_matches_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "2.mp4", "1.mp4", "1.txt")
    assert [one.path.name for one in expand_inputs([f"{tmp_path}/*.mp4"])] == ["1.mp4", "2.mp4"]


def test_a_file_whose_name_looks_like_a_glob_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, "take[1].mp4", "take1.mp4")
    assert [one.path.name for one in expand_inputs([str(tmp_path / "take[1].mp4")])] == ["take[1].mp4"]


def test_what_leads_nowhere_keeps_its_place_with_a_reason(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", "empty/x.txt")
    named = ["missing.mp4", "a.txt", "empty", "*.avi"]
    reasons = [one.reason for one in expand_inputs([str(tmp_path / name) for name in named])]
    assert reasons == ["not_found", "unsupported", "nothing_inside", "not_found"]


def test_an_empty_name_is_a_mistake_and_not_the_working_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty"):
        expand_inputs([str(tmp_path), ""])


def test_a_circle_of_links_gives_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4", "fake/b.mp4")
    for name in ("one", "two"):
        (tmp_path / "fake" / name).symlink_to("..")
    for named in (str(tmp_path), f"{tmp_path}/**/*.mp4", f"{tmp_path}/**"):
        found = [one.path.relative_to(tmp_path).as_posix() for one in expand_inputs([named])]
        assert found == ["fake/b.mp4", "real/a.mp4"]


def test_two_stars_read_folders_below_and_the_one_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "x/y[1]/b.mp4", "x/y[1]/c.txt", "z/d.mp4")
    found = expand_inputs([f"{tmp_path}/**/*.mp4"])
    assert [one.path.name for one in found] == ["a.mp4", "b.mp4", "d.mp4"]
    assert [one.path.name for one in expand_inputs([f"{tmp_path}/x/**/b.*"])] == ["b.mp4"]


def test_two_stars_begin_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.mp4", "x/b.mp4")
    monkeypatch.chdir(tmp_path)
    assert [str(one.path) for one in expand_inputs(["**/*.mp4"])] == ["a.mp4", "x/b.mp4"]


def test_pipes_and_links_to_themselves_are_inputs_whose_reason_is_told_later(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    named = [str(tmp_path / "pipe.mp4"), str(tmp_path / "loop.mp4"), f"{tmp_path}/p*.mp4"]
    assert [(one.kind, one.reason) for one in expand_inputs(named)] == [("video", "")] * 3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of one original and its fake."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "real.mp4").write_bytes(b"real")
    (tmp_path / "data" / "fake.mp4").write_bytes(b"fake")
    return tmp_path / "data"


@pytest.fixture
def originals(root: Path) -> Originals:
    run = root.parent / "run"
    run.mkdir()
    table = pd.DataFrame({"sample_id": ["a/real", "a/fake"], "path": ["real.mp4", "fake.mp4"], "dataset": "a"})
    table["sha256"] = [hashlib.sha256(data).hexdigest() for data in (b"real", b"fake")]
    table["original"] = ["", "a/real"]
    table.assign(groups=[["g"], ["g"]]).to_parquet(run / "manifest.parquet")
    (run / "provenance.json").write_text(json.dumps({"format": 1, "data": {"roots": {"a": str(root)}}}))
    return Originals(RunRecord("run", None, "FINISHED", None, (run,)))


def test_a_fake_brings_its_original_along(root: Path, originals: Originals) -> None:
    original, fake = originals.jobs({"0": Input(root / "fake.mp4", "video")})
    assert (original.file, fake.original) == (root / "real.mp4", original.sample_id)


def test_a_copy_elsewhere_is_known_by_its_content(root: Path, originals: Originals, tmp_path: Path) -> None:
    copy = tmp_path / "anything.mp4"
    copy.write_bytes(b"fake")
    assert len(originals.jobs({"0": Input(copy, "video")})) == 2


def test_two_fakes_share_one_original(root: Path, originals: Originals) -> None:
    twice = Input(root / "fake.mp4", "video")
    assert [job.sample_id for job in originals.jobs({"0": twice, "1": twice})][1:] == ["0", "1"]


def test_a_real_video_stands_alone(root: Path, originals: Originals) -> None:
    (job,) = originals.jobs({"0": Input(root / "real.mp4", "video")})
    assert job.original == ""


def test_without_its_original_a_fake_has_its_own_track(root: Path, originals: Originals) -> None:
    (root / "real.mp4").unlink()
    (job,) = originals.jobs({"0": Input(root / "fake.mp4", "video")})
    assert job.original == ""


LEVEL = Isotonic((0.0, 0.3, 0.6, 1.0), (0.0, 0.7, 0.7, 1.0), bound=0.01)


def answer(score: float, threshold: float, calibrator: Calibrator | None) -> tuple[Answer, Decision]:
    decision = Decision(0.5, threshold, "youden", calibrator, "mean", {"data": "val"})
    record = {"status": "ok", "frames": 4, "filled": 0}
    one = Input(Path("clip.mp4"), "video")
    return read_score(decision, one, record, score, np.array([score]), finds=False), decision


def shown(score: float, threshold: float, calibrator: Calibrator | None) -> str:
    console = Console(width=300)
    one, decision = answer(score, threshold, calibrator)
    with console.capture() as said:
        console.print(_table([one], "run", decision))
    return said.get()


@pytest.mark.parametrize("calibrator", [Platt(0.7, 1.4), Platt(3.0, -2.0), LEVEL], ids=repr)
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.45, 0.9, 1.0])
def test_a_class_never_contradicts_its_probability_and_the_threshold(calibrator: Calibrator, threshold: float) -> None:
    for score in np.linspace(0, 1, 41):
        one, decision = answer(float(score), threshold, calibrator)
        cut = decision.applied_probability
        assert one.predicted == ("FAKE" if score >= threshold else "REAL")
        assert one.probability is not None
        assert cut is not None
        assert one.probability >= cut if one.predicted == "FAKE" else one.probability <= cut
        assert one.tied or score == threshold or one.probability != cut
        assert one.confidence == (one.probability if one.predicted == "FAKE" else 1 - one.probability)


def test_the_less_probable_class_is_named_with_its_reason() -> None:
    said = shown(0.4, 0.5, Platt(1.0, 1.0))
    assert "FAKE from score 0.5000 on, that is from a probability of 0.7311 on (fitted by youden on val)" in said
    assert "REAL though less probable: the threshold lies at 0.7311" in said
    assert "0.3556" in said  # how sure it is of the class it names


def test_on_a_level_stretch_it_says_that_the_score_decided() -> None:
    assert "as probable as the threshold, 0.7000: decided by its score" in shown(0.4, 0.5, LEVEL)
    assert "decided by its score" not in shown(0.2, 0.5, LEVEL)


def test_without_a_calibrator_the_threshold_is_a_score() -> None:
    said = shown(0.4, 0.5, None)
    assert "FAKE from score 0.5000 on (fitted by youden on val)" in said
    assert answer(0.4, 0.5, None)[0].confidence is None
