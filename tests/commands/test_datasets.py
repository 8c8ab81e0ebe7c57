"""What lies under a folder is named, known data sets and media without labels alike."""

from __future__ import annotations

from pathlib import Path

import pytest

import deepfake
from deepfake.cli import main
from deepfake.commands.datasets import found_below
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


@pytest.mark.parametrize("place", ["faces", "datasets/somebody/faces", "a/b/c/faces"])
def test_folders_that_hold_nothing_but_one_other_are_no_level(place: str, tmp_path: Path) -> None:
    """As Kaggle mounts what is added, with an archive's own folders inside."""
    plant(tmp_path / place / "real_vs_fake" / "real-vs-fake", ["train/real/a.jpg", "train/fake/b.jpg"])
    (found,) = found_below(tmp_path)
    assert found[0] == tmp_path / place / "real_vs_fake" / "real-vs-fake"


def test_a_chain_of_folders_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert list(found_below(tmp_path)) == []


def test_from_python_it_is_a_table(tmp_path: Path) -> None:
    plant(tmp_path / "mine", ["real/a.jpg", "fake/b.jpg"])
    table = deepfake.datasets(tmp_path)
    assert table[["dataset", "root"]].to_numpy().tolist() == [["images", str(tmp_path / "mine")]]
    assert len(deepfake.datasets(tmp_path / "mine" / "real")) == len(deepfake.datasets(tmp_path / "no")) == 0
