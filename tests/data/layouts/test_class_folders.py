"""Folders by split and class: a user's own and the Kaggle sets that are such."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepfake.data.dataset import read_dataset
from deepfake.data.layouts import find_layouts
from deepfake.data.manifest import FAKE, REAL, save_manifest
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError
from tests.data.layouts.trees import by_stem, counts, plant, read


def numbered(folder: str, word: str, numbers: range, suffix: str = "jpg") -> list[str]:
    return [f"{folder}/{word}_{n}.{suffix}" for n in numbers]


@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
@pytest.mark.parametrize(("layout", "suffix"), [("images", "png"), ("videos", "mp4")])
def test_every_name_of_validation_is_val(tmp_path: Path, validation: str, layout: str, suffix: str) -> None:
    for split in ("Train", validation, "TEST"):
        plant(tmp_path, [f"{split}/Real/a{split}.{suffix}", f"{split}/FAKE/b{split}.{suffix}"])
    manifest = read(layout, tmp_path)
    assert by_stem(manifest, "split") == {
        "aTrain": "train", f"a{validation}": "val", "aTEST": "test",
        "bTrain": "train", f"b{validation}": "val", "bTEST": "test",
    }  # fmt: skip
    assert counts(manifest) == {REAL: 3, FAKE: 3}


def test_bare_class_folders_are_split_by_us(tmp_path: Path) -> None:
    plant(tmp_path / "set", numbered("real", "real", range(40)) + numbered("fake", "fake", range(40)))
    manifest = read_dataset(DatasetOptions(layout="images", root=str(tmp_path / "set")), tmp_path)
    assert manifest.table.groupby(["split", "label"]).size().to_dict() == {
        ("test", 0): 6, ("test", 1): 6, ("train", 0): 28, ("train", 1): 28, ("val", 0): 6, ("val", 1): 6,
    }  # fmt: skip


def test_names_without_meaning_merge_nothing(tmp_path: Path) -> None:
    plant(tmp_path, numbered("real", "real", range(40)) + numbered("fake", "fake", range(40)))
    assert read("images", tmp_path).table["groups"].nunique() == 80


def test_frames_of_one_footage_are_one_group(tmp_path: Path) -> None:
    for person in "abcde":
        plant(tmp_path, numbered("real", f"talk{person}", range(4)) + numbered("fake", f"talk{person}", range(4)))
    groups = read("images", tmp_path).table["groups"]
    assert groups.nunique() == 5


def test_folders_of_frames_are_groups(tmp_path: Path) -> None:
    plant(tmp_path, [f"{label}/video{v}/{n:04d}.png" for label in ("real", "fake") for v in range(3) for n in range(4)])
    manifest = read("images", tmp_path)
    assert manifest.table["groups"].nunique() == 3
    assert manifest.table["sample_id"].is_unique


def test_one_name_with_two_suffixes_does_not_collide(tmp_path: Path) -> None:
    plant(tmp_path, ["real/a.jpg", "real/a.png", "fake/b.jpg"])
    assert read("images", tmp_path).table["sample_id"].is_unique


def test_one_name_in_two_splits_does_not_collide(tmp_path: Path) -> None:
    plant(tmp_path, [f"{split}/{label}/{label}_1.jpg" for split in ("train", "test") for label in ("real", "fake")])
    assert read("images", tmp_path).table["sample_id"].is_unique


@pytest.fixture
def reals(tmp_path: Path) -> Path:
    return plant(tmp_path / "set", [f"{split}/real/{n}.jpg" for split in ("train", "val") for n in range(4)])


def test_a_missing_class_is_named(reals: Path) -> None:
    assert any("has only train/real, val/real" in note for note in read("images", reals).notes)


def test_one_class_cannot_be_trained_on(reals: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the training part has no fake samples"):
        read_dataset(DatasetOptions(layout="images", root=str(reals)), tmp_path)


def test_one_class_can_be_scored(tmp_path: Path) -> None:
    plant(tmp_path / "fakes", [f"fake/{n}.jpg" for n in range(4)])
    found = read_dataset(DatasetOptions(layout="images", root=str(tmp_path / "fakes")), tmp_path, trains=False)
    assert len(found.split("test")) == 4


def test_unknown_folders_are_named(tmp_path: Path) -> None:
    plant(tmp_path, ["real/a.jpg", "fake/b.jpg", "masks/c.jpg", "__MACOSX/real/._a.jpg"])
    assert "folders that are not read: masks" in read("images", tmp_path).notes


def test_spaces_and_bytes_that_are_no_text_survive(tmp_path: Path) -> None:
    plant(tmp_path / "my set", ["real/a b.jpg", "fake/c.jpg"])
    odd = os.fsencode(tmp_path / "my set" / "fake") + b"/caf\xe9.jpg"
    Path(os.fsdecode(odd)).write_bytes(b"pixels")
    manifest = read("images", tmp_path / "my set")
    assert all(manifest.file("set", path).is_file() for path in manifest.table["path"])
    for name in ("table.csv", "table.parquet"):
        save_manifest(manifest, tmp_path / name)
    assert "fake/caf\\xe9.jpg" in set(manifest.table["path"])
    assert len(manifest.digest()) == 64


def test_hardfake_carves_test_from_train(tmp_path: Path) -> None:
    for word, most in (("real", 589), ("fake", 700)):
        plant(tmp_path, numbered(f"train/{word}", word, range(1, most - 49)))
        plant(tmp_path, numbered(f"valid/{word}", word, range(most - 49, most + 1)))
    assert find_layouts(tmp_path)[0][0].name == "kaggle_hardfake"
    manifest = read_dataset(DatasetOptions(layout="kaggle_hardfake", root=str(tmp_path)), tmp_path)
    assert manifest.table["split"].value_counts().to_dict() == {"train": 979, "test": 210, "val": 100}
    assert any("no published test split: carved from train by group" in note for note in manifest.notes)


def test_the_real_hardfake_reads_as_class_folders(shared_data: Path, tmp_path: Path) -> None:
    manifest = read_dataset(DatasetOptions(layout="images", root=str(shared_data / "hardfake")), tmp_path)
    assert counts(manifest) == {REAL: 589, FAKE: 700}
    assert len(manifest.split("val")) == 100


@pytest.fixture
def faces140k(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    for split in ("train", "valid", "test"):
        rows = [",original_path,id,label,label_str,path"]
        for i in range(6):
            label = "real" if i % 2 else "fake"
            path = f"{split}/{label}/{split}{i}.jpg"
            plant(root / "real_vs_fake" / "real-vs-fake", [path])
            rows.append(f"{i},/x/{i}.jpg,{i},{i % 2},{label},{path}")
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("below", ["..", "", "real_vs_fake", "real_vs_fake/real-vs-fake"])
def test_140k_is_found_from_around_and_fake_is_one(faces140k: Path, below: str) -> None:
    manifest = read("kaggle_140k_faces", (faces140k / below).resolve())
    assert counts(manifest) == {REAL: 9, FAKE: 9}
    assert by_stem(manifest, "label")["train1"] == REAL
    assert by_stem(manifest, "split")["valid1"] == "val"


def test_a_140k_table_that_contradicts_the_folders_is_refused(faces140k: Path) -> None:
    table = faces140k / "test.csv"
    table.write_text(table.read_text().replace(",real,", ",X,").replace(",fake,", ",real,").replace(",X,", ",fake,"))
    with pytest.raises(DataError, match="inverted"):
        read("kaggle_140k_faces", faces140k)


@pytest.mark.parametrize("below", ["", "Dataset"])
def test_manjilkarki_is_found_from_around(tmp_path: Path, below: str) -> None:
    for split in ("Train", "Validation", "Test"):
        plant(tmp_path / "Dataset", [f"{split}/Real/real_0.jpg", f"{split}/Fake/fake_0.jpg"])
    manifest = read("kaggle_deepfake_and_real_images", tmp_path / below)
    assert counts(manifest) == {REAL: 3, FAKE: 3}
    assert manifest.table["split"].value_counts().to_dict() == {"train": 2, "val": 2, "test": 2}
    assert manifest.table["groups"].nunique() == 6


@pytest.mark.parametrize("below", ["", "real_and_fake_face"])
def test_ciplab_names_what_was_replaced(tmp_path: Path, below: str) -> None:
    root = tmp_path / "real_and_fake_face"
    plant(root, ["training_real/real_00001.jpg", "training_fake/easy_1_1110.jpg", "training_fake/hard_7_0001.jpg"])
    manifest = read("kaggle_real_and_fake_face", tmp_path / below)
    assert counts(manifest) == {REAL: 1, FAKE: 2}
    assert by_stem(manifest, "method") == {
        "real_00001": "real", "easy_1_1110": "easy-left_eye-right_eye-nose", "hard_7_0001": "hard-mouth",
    }  # fmt: skip
    assert manifest.table["groups"].nunique() == 3
    assert set(manifest.table["split"]) == {""}
