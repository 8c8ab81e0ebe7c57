"""The way into a data set: what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.data.dataset import read_dataset
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError
from tests.data.layouts.trees import plant


def read(root: Path | str | None, layout: str = "images", **options: object) -> object:
    given = None if root is None else str(root)
    return read_dataset(DatasetOptions(root=given, layout=layout, **options), Path("cache"))  # type: ignore[arg-type]


def test_a_missing_root_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    with pytest.raises(DataError, match="faces") as caught:
        read(tmp_path / "facse")
    assert "does not exist" in caught.value.message


def test_no_root_says_which_key_to_set() -> None:
    with pytest.raises(DataError, match=r"dataset\.root=/path"):
        read(None)


def test_an_empty_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path)


def test_an_unknown_tree_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    plant(tmp_path, ["cats/1.jpg", "notes.txt"])
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert "looked for {train,valid,test}/{real,fake}" in caught.value.message
    assert "found cats/, notes.txt" in caught.value.message


def test_another_known_tree_is_suggested(tmp_path: Path) -> None:
    plant(tmp_path, ["real/a.mp4", "fake/b.mp4"])
    with pytest.raises(DataError, match=r"dataset\.layout=videos"):
        read(tmp_path)


def test_an_unknown_layout_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'images'"):
        read(tmp_path, "imagse")


def test_a_training_part_of_one_class_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, ["train/real/a.jpg", "val/real/b.jpg", "val/fake/c.jpg", "test/fake/d.jpg"])
    with pytest.raises(DataError, match="training part has no fake"):
        read(tmp_path)


def test_a_test_part_of_one_class_is_told(tmp_path: Path) -> None:
    plant(tmp_path, [f"{s}/{c}/{s}{c}.jpg" for s in ("train", "val") for c in ("real", "fake")] + ["test/fake/d.jpg"])
    manifest = read_dataset(DatasetOptions(root=str(tmp_path)), tmp_path)
    assert "the test part holds no real sample: ranking metrics cannot be had on it" in manifest.notes


def test_a_limit_is_dealt_evenly(tmp_path: Path) -> None:
    plant(
        tmp_path,
        [f"{s}/{c}/{s}{c}{i}.jpg" for s in ("train", "val", "test") for c in ("real", "fake") for i in range(9)],
    )
    table = read_dataset(DatasetOptions(root=str(tmp_path), limit=12), tmp_path).table
    assert table.groupby(["split", "label"]).size().tolist() == [2] * 6


def images(root: Path) -> DatasetOptions:
    return DatasetOptions(name="images", layout="images", root=str(root))


def test_what_is_only_scored_is_all_test_where_nothing_is_published(tmp_path: Path) -> None:
    plant(tmp_path, [f"{name}/{i}.jpg" for name in ("real", "fake") for i in range(5)])
    assert set(read_dataset(images(tmp_path), tmp_path, trains=False).table["split"]) == {"test"}


def test_what_is_only_scored_keeps_its_published_splits(tmp_path: Path) -> None:
    classes = ("real", "fake")
    plant(tmp_path, [f"{split}/{name}/{i}.jpg" for split in ("train", "test") for name in classes for i in "ab"])
    table = read_dataset(images(tmp_path), tmp_path, trains=False).table
    published = table["path"].str.split("/").str[0]
    assert (table["split"] == "test").equals(published == "test")


def test_fakes_that_are_made_in_training_need_none_there(tmp_path: Path) -> None:
    plant(tmp_path, ["train/real/a.jpg", "val/real/b.jpg", "val/fake/c.jpg"])
    assert len(read_dataset(images(tmp_path), tmp_path, makes_fakes=True)) == 3


def test_fakes_cannot_be_made_of_fakes(tmp_path: Path) -> None:
    plant(tmp_path, ["train/fake/a.jpg", "val/real/b.jpg", "val/fake/c.jpg"])
    with pytest.raises(DataError, match="training part has no real") as caught:
        read_dataset(images(tmp_path), tmp_path, makes_fakes=True)
    assert "augment.self_blend makes fakes of real samples" in str(caught.value.hint)


def test_what_is_only_scored_may_lack_a_class_to_train_on(tmp_path: Path) -> None:
    plant(tmp_path, ["train/fake/a.jpg", "test/real/b.jpg", "test/fake/c.jpg"])
    with pytest.raises(DataError, match="the training part"):
        read_dataset(images(tmp_path), tmp_path)
    assert len(read_dataset(images(tmp_path), tmp_path, trains=False)) == 3
