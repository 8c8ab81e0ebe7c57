"""Fakes of a run's own data set are cut where their originals were, as they were in training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from deepfake.commands.inputs import Input
from deepfake.commands.predicting import Originals
from deepfake.tracking.record import RunRecord


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
