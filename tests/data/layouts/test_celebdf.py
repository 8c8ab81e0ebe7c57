"""Celeb-DF, whose list calls real videos 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.data.dataset import read_dataset
from deepfake.data.manifest import FAKE, REAL
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError
from tests.data.layouts.trees import by_stem, counts, plant, read

LISTED = "1 YouTube-real/00001.mp4\n1 Celeb-real/id0_0000.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"


def plant_celebdf(root: Path, level: str) -> Path:
    plant(root, [f"Celeb-real/{level}id{i}_000{n}.mp4" for i in range(6) for n in range(3)])
    plant(root, [f"YouTube-real/{level}0000{n}.mp4" for n in range(4)])
    plant(
        root,
        [
            f"Celeb-synthesis/{level}id{i}_id{j}_000{n}.mp4"
            for i in range(6)
            for j in range(6)
            for n in (0, 1)
            if i != j
        ],
    )
    (root / "List_of_testing_videos.txt").write_text(LISTED)
    return root


@pytest.fixture(params=["", "videos/"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return plant_celebdf(tmp_path / "Celeb-DF-v2", request.param)


def test_synthesis_is_fake(tree: Path) -> None:
    assert counts(read("celebdf", tree)) == {REAL: 22, FAKE: 60}


def test_the_list_is_the_test_part(tree: Path) -> None:
    manifest = read("celebdf", tree)
    assert set(by_stem(manifest, "split").values()) == {"train", "test"}
    assert set(manifest.split("test")["path"].map(lambda p: Path(p).stem)) == {"00001", "id0_0000", "id0_id1_0000"}


def test_groups_are_celebrities(tree: Path) -> None:
    groups = by_stem(read("celebdf", tree), "groups")
    assert groups["id2_id5_0001"] == ("celebdf/id2", "celebdf/id5")
    assert groups["id2_0001"] == ("celebdf/id2",)


def test_a_fake_names_its_original(tree: Path) -> None:
    assert by_stem(read("celebdf", tree), "original")["id2_id5_0001"] == "set/Celeb-real/id2_0001"


def test_shared_celebrities_are_reported(tree: Path, tmp_path: Path) -> None:
    manifest = read_dataset(DatasetOptions(layout="celebdf", root=str(tree)), tmp_path)
    assert any("published splits share" in note for note in manifest.notes)


def test_strict_splits_share_no_celebrity(tree: Path, tmp_path: Path) -> None:
    manifest = read_dataset(DatasetOptions(layout="celebdf", root=str(tree), splits="strict"), tmp_path)
    assert manifest.table.explode("groups").groupby("groups")["split"].nunique().max() == 1
    assert any(note.startswith("strict splits: dropped") for note in manifest.notes)


def test_a_list_of_the_opposite_polarity_is_refused(tree: Path) -> None:
    text = "".join(("0" if line[0] == "1" else "1") + line[1:] + "\n" for line in LISTED.splitlines())
    (tree / "List_of_testing_videos.txt").write_text(text)
    with pytest.raises(DataError, match="opposite"):
        read("celebdf", tree)


def test_without_a_list_splits_are_ours(tree: Path, tmp_path: Path) -> None:
    (tree / "List_of_testing_videos.txt").unlink()
    manifest = read_dataset(DatasetOptions(layout="celebdf", root=str(tree)), tmp_path)
    assert set(manifest.table["split"]) == {"train", "val", "test"}
    assert manifest.table.explode("groups").groupby("groups")["split"].nunique().max() == 1


def plant_celebdfpp(root: Path, level: str = "") -> Path:
    plant(root, [f"Celeb-real/{level}id{i}_000{n}.mp4" for i in range(3) for n in range(2)])
    plant(root, [f"YouTube-real/{level}0000{n}.mp4" for n in range(2)])
    made = {"FaceSwap": ("BlendFace", "Celeb-DF"), "FaceReenact": ("LIA",), "TalkingFace": ("FLOAT",)}
    names = [f"{scenario}/{method}" for scenario, methods in made.items() for method in methods]
    plant(root, [f"Celeb-synthesis/{name}/{level}id{i}_id2_0000.mp4" for name in names for i in range(2)])
    (root / "List_of_testing_videos.txt").write_text(
        "1 Celeb-real/id0_0000.mp4\n0 Celeb-synthesis/FaceSwap/BlendFace/id0_id2_0000.mp4\n"
        "0 Celeb-synthesis/TalkingFace/FLOAT/id1_id2_0000.mp4\n"
    )
    return root


@pytest.mark.parametrize("level", ["", "videos/"])
def test_the_newer_set_has_a_folder_for_each_method(tmp_path: Path, level: str) -> None:
    manifest = read("celebdfpp", plant_celebdfpp(tmp_path / "Celeb-DF++", level))
    assert counts(manifest) == {REAL: 8, FAKE: 8}
    fakes = manifest.table[manifest.table["label"] == FAKE]
    assert set(fakes["method"]) == {"BlendFace", "Celeb-DF", "LIA", "FLOAT"}
    assert set(fakes["scenario"]) == {"FaceSwap", "FaceReenact", "TalkingFace"}
    # A name that several methods have is listed of one of them.
    assert set(manifest.split("test")["method"]) == {"Celeb-real", "BlendFace", "FLOAT"}
    assert len(manifest.split("test")) == 3


def test_methods_of_the_newer_set_are_chosen(tmp_path: Path) -> None:
    plant_celebdfpp(tmp_path)
    manifest = read("celebdfpp", tmp_path, methods=["LIA"])
    assert set(manifest.table["method"]) == {"Celeb-real", "YouTube-real", "LIA"}
    assert manifest.notes == []
    with pytest.raises(DataError, match=r"dataset.methods names 'LIAR'"):
        read("celebdfpp", tmp_path, methods=["LIAR"])


def test_the_older_layout_does_not_take_the_newer_set(tmp_path: Path) -> None:
    from deepfake.data.layouts import LAYOUTS

    assert LAYOUTS["celebdf"].probe(plant_celebdfpp(tmp_path)) is None
