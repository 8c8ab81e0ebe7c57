"""Probing: the Kaggle sets are told apart, and several sets are read as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deepfake.data.dataset import read_dataset, settle_faces
from deepfake.data.layouts import LAYOUTS, find_layouts
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError
from tests.data.layouts.test_celebdf import plant_celebdf
from tests.data.layouts.trees import plant, read, write_json


def _ff_c23(root: Path) -> None:
    plant(root / "FaceForensics++_C23", ["original/000.mp4", "Deepfakes/000_001.mp4"])


def _deepfake_faces(root: Path) -> None:
    plant(root, ["faces_224/a.jpg", "faces_224/b.jpg"])
    (root / "metadata.csv").write_text("videoname,label,original\na.mp4,REAL,\nb.mp4,FAKE,a.mp4\n")


def _faces_140k(root: Path) -> None:
    plant(root, ["real_vs_fake/real-vs-fake/train/real/a.jpg", "real_vs_fake/real-vs-fake/train/fake/b.jpg"])


def _deepfake_and_real(root: Path) -> None:
    plant(root, [f"Dataset/{s}/{c}/x_0.jpg" for s in ("Train", "Validation", "Test") for c in ("Real", "Fake")])


def _real_and_fake(root: Path) -> None:
    plant(root, ["real_and_fake_face/training_real/a.jpg", "real_and_fake_face/training_fake/easy_1_0001.jpg"])


def _hardfake(root: Path) -> None:
    plant(root, [f"real/real_{n}.jpg" for n in (1, 2, 3, 589)] + [f"fake/fake_{n}.jpg" for n in (1, 2, 3, 700)])


def _celebdf(root: Path) -> None:
    plant_celebdf(root, "")


def _dfdc(root: Path) -> None:
    write_json(root / "train_sample_videos" / "metadata.json", {"a.mp4": {"label": "REAL"}, "b.mp4": {"label": "FAKE"}})
    plant(root, ["train_sample_videos/a.mp4", "train_sample_videos/b.mp4"])


TREES: dict[str, Callable[[Path], None]] = {
    "kaggle_ff_c23": _ff_c23,
    "kaggle_deepfake_faces": _deepfake_faces,
    "kaggle_140k_faces": _faces_140k,
    "celebdf": _celebdf,
    "kaggle_deepfake_and_real_images": _deepfake_and_real,
    "kaggle_real_and_fake_face": _real_and_fake,
    "kaggle_hardfake": _hardfake,
    "dfdc": _dfdc,
}


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("above", [False, True])
def test_each_set_is_found_from_its_folder_or_one_above(tmp_path: Path, name: str, above: bool) -> None:
    TREES[name](tmp_path / "archive")
    manifest = read("kaggle", tmp_path if above else tmp_path / "archive")
    assert manifest.notes[0].startswith(f"found {name} in ")


@pytest.mark.parametrize("name", TREES)
def test_the_most_telling_layout_comes_first(tmp_path: Path, name: str) -> None:
    TREES[name](tmp_path / "archive")
    assert find_layouts(tmp_path / "archive")[0][0].name == name


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_can_be_chosen_by_its_name(name: str) -> None:
    config = Path(__file__).parents[3] / "conf" / "dataset" / f"{name}.yaml"
    assert f"layout: {name}\n" in config.read_text()


@pytest.mark.parametrize(("name", "faces"), [("kaggle_hardfake", "none"), ("kaggle_ff_c23", "mtcnn")])
def test_faces_are_looked_for_only_where_there_are_no_crops(tmp_path: Path, name: str, faces: str) -> None:
    TREES[name](tmp_path)
    assert settle_faces(DatasetOptions(layout="kaggle", root=str(tmp_path), faces="auto")).faces == faces


def test_an_unknown_set_says_what_was_looked_for(tmp_path: Path) -> None:
    plant(tmp_path / "x", ["cats/1.jpg"])
    with pytest.raises(DataError, match="found cats/"):
        read_dataset(DatasetOptions(layout="kaggle", root=str(tmp_path / "x")), tmp_path)


@pytest.fixture
def mixed(tmp_path: Path) -> list[dict[str, str]]:
    for name in ("one", "two"):
        plant(tmp_path / name, [f"real/r{i}.jpg" for i in range(10)] + [f"fake/f{i}.jpg" for i in range(10)])
    return [{"layout": "images", "root": str(tmp_path / name)} for name in ("one", "two")]


def test_parts_of_one_name_do_not_collide(mixed: list[dict[str, str]], tmp_path: Path) -> None:
    manifest = read_dataset(DatasetOptions(layout="mix", parts=mixed), tmp_path)
    assert manifest.table["dataset"].value_counts().to_dict() == {"images": 20, "images-2": 20}
    assert manifest.table["sample_id"].is_unique
    assert all(manifest.file(r.dataset, r.path).is_file() for r in manifest.table.itertuples())  # type: ignore[arg-type]


def test_a_part_with_published_splits_keeps_them(mixed: list[dict[str, str]], tmp_path: Path) -> None:
    plant(tmp_path / "three", [f"{s}/{c}/{s}{c}.jpg" for s in ("train", "val", "test") for c in ("real", "fake")])
    parts = [*mixed, {"layout": "images", "name": "own", "root": str(tmp_path / "three")}]
    table = read_dataset(DatasetOptions(layout="mix", parts=parts), tmp_path).table
    own = table[table["dataset"] == "own"]
    assert (own["path"].str.split("/").str[0] == own["split"]).all()
    assert set(table.loc[table["dataset"] == "images", "split"]) == {"train", "val", "test"}


def test_footage_that_two_sets_share_is_in_one_split(tmp_path: Path) -> None:
    stems = [f"abcdefgh{a}{b}" for a in "abcd" for b in "abcd"]
    plant(tmp_path / "crops", [f"real/{s}_0.jpg" for s in stems] + [f"fake/zzzzzzzzzz_{s}_0.jpg" for s in stems])
    names = {f"{s}.mp4": {"label": "REAL" if s[-1] == "a" else "FAKE"} for s in stems}
    plant(tmp_path / "videos", names)
    write_json(tmp_path / "videos" / "metadata.json", names)
    parts = [
        {"layout": "images", "root": str(tmp_path / "crops")},
        {"layout": "dfdc", "root": str(tmp_path / "videos")},
    ]
    table = read_dataset(DatasetOptions(layout="mix", parts=parts), tmp_path).table
    assert table.explode("groups").groupby("groups")["split"].nunique().max() == 1


def test_an_unknown_key_of_a_part_is_named(mixed: list[dict[str, str]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rot"):
        read_dataset(DatasetOptions(layout="mix", parts=[{**mixed[0], "rot": "x"}]), tmp_path)
