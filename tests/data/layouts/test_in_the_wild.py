"""FFIW and WildDeepfake: folders say class and part."""

from __future__ import annotations

from pathlib import Path

from deepfake.data.layouts import find_layouts
from deepfake.data.manifest import FAKE, REAL
from tests.data.layouts.trees import counts, plant, read


def test_what_is_made_of_a_source_is_fake(tmp_path: Path) -> None:
    names = [
        f"{folder}/{part}/videos/00{n}.mp4"
        for folder in ("source", "target")
        for part in ("train", "val")
        for n in (1, 2)
    ]
    root = plant(tmp_path / "FFIW10K-v1-release", names)
    manifest = read("ffiw", tmp_path)
    assert counts(manifest) == {REAL: 4, FAKE: 4}
    assert manifest.roots == {"set": root}
    assert manifest.table["split"].value_counts().to_dict() == {"train": 4, "val": 4}
    one = manifest.table.set_index("path")["groups"]
    assert one["source/val/videos/001.mp4"] == one["target/val/videos/001.mp4"]
    assert one["source/train/videos/001.mp4"] != one["source/val/videos/001.mp4"]
    assert "source has no test part" in manifest.notes


def test_ffiw_without_the_level_of_videos(tmp_path: Path) -> None:
    plant(tmp_path, [f"{folder}/val/{n}.mp4" for folder in ("source", "target") for n in range(3)])
    assert counts(read("ffiw", tmp_path)) == {REAL: 3, FAKE: 3}


def _wild(root: Path) -> Path:
    return plant(
        root,
        [
            f"{word}_{part}/{video}/{word}/{sequence}/{frame}.png"
            for word in ("real", "fake")
            for part in ("train", "test")
            for video in (1, 2)
            for sequence in (10, 11)
            for frame in (0, 1)
        ],
    )


def test_frames_of_a_video_are_one_group(tmp_path: Path) -> None:
    manifest = read("wilddeepfake", _wild(tmp_path / "deepfake_in_the_wild"))
    assert counts(manifest) == {REAL: 16, FAKE: 16}
    assert manifest.table["split"].value_counts().to_dict() == {"train": 16, "test": 16}
    assert set(manifest.table["groups"].str[0]) == {
        f"wilddeepfake/{word}/{part}/{video}"
        for word in ("real", "fake")
        for part in ("train", "test")
        for video in (1, 2)
    }
    assert manifest.table["sample_id"].is_unique
    assert set(manifest.table["kind"]) == {"image"}


def test_its_tree_is_told_from_class_folders(tmp_path: Path) -> None:
    assert next(layout.name for layout, _ in find_layouts(_wild(tmp_path))) == "wilddeepfake"


def test_a_folder_beside_is_named(tmp_path: Path) -> None:
    plant(_wild(tmp_path), ["notes/a.txt"])
    assert read("wilddeepfake", tmp_path).notes == ["folders that are not read: notes"]
