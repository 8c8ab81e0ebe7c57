"""What lies under a folder is named, known data sets and media without labels alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.cli import main
from tests.data.layouts.trees import plant


def test_a_known_set_is_named_with_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(tmp_path / "mine", ["real/a.jpg", "fake/b.jpg"])
    assert main(["datasets", str(tmp_path)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if str(tmp_path / "mine") in line)
    assert "images" in line


def test_media_without_labels_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(tmp_path, ["loose/a.mp4", "mine/real/a.jpg", "mine/fake/b.jpg"])
    assert main(["datasets", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "without labels" in line and "loose" in line and "videos" in line]
    assert len([line for line in lines if "without labels" in line]) == 1


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", str(tmp_path / "no")]) == 2
    assert "there is no folder" in capsys.readouterr().err
