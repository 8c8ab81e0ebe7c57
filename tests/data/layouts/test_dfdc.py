"""DFDC's parts, its Kaggle sample, and the face crops made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.data.manifest import FAKE, REAL
from deepfake.data.options import DatasetOptions
from deepfake.data.read import read_dataset
from deepfake.errors import DataError
from tests.data.layouts.trees import by_stem, counts, plant, read, write_json


def entry(label: str, original: str | None = None) -> dict[str, str]:
    return {"label": label, "split": "train", **({"original": original} if original else {})}


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for n in range(3):
        folder = tmp_path / "dfdc" / f"dfdc_train_part_{n}"
        names = {f"real{n}.mp4": entry("REAL")}
        names |= {f"fake{n}{i}.mp4": entry("FAKE", f"real{n}.mp4") for i in range(4)}
        plant(folder, names)
        write_json(folder / "metadata.json", names)
    return tmp_path / "dfdc"


def test_fake_is_one(parts: Path) -> None:
    assert counts(read("dfdc", parts)) == {REAL: 3, FAKE: 12}


def test_an_original_and_its_fakes_are_one_group(parts: Path) -> None:
    groups = by_stem(read("dfdc", parts), "groups")
    assert groups["real1"] == groups["fake12"] == ("dfdc/real1",)


def test_an_original_and_its_fakes_are_in_one_split(parts: Path, tmp_path: Path) -> None:
    splits = by_stem(read_dataset(DatasetOptions(layout="dfdc", root=str(parts)), tmp_path), "split")
    assert {splits[f"real{n}"] for n in range(3)} == {"train", "val", "test"}
    assert all(splits[f"fake{n}{i}"] == splits[f"real{n}"] for n in range(3) for i in range(4))


def test_one_part_is_enough(parts: Path) -> None:
    assert len(read("dfdc", parts / "dfdc_train_part_0")) == 5


def test_files_that_are_not_there_are_counted(parts: Path) -> None:
    (parts / "dfdc_train_part_1" / "real1.mp4").unlink()
    notes = read("dfdc", parts).notes
    assert any("dfdc_train_part_1/metadata.json names 1 of 5 files that are not there: real1.mp4" in n for n in notes)
    assert any("4 of 12 fakes have no original" in n for n in notes)


def test_a_file_name_in_two_parts_does_not_collide(parts: Path) -> None:
    write_json(parts / "dfdc_train_part_9" / "metadata.json", {"real0.mp4": entry("REAL")})
    plant(parts, ["dfdc_train_part_9/real0.mp4"])
    assert read("dfdc", parts).table["sample_id"].is_unique


def test_an_unknown_label_is_quoted(parts: Path) -> None:
    write_json(parts / "dfdc_train_part_9" / "metadata.json", {"a.mp4": entry("MAYBE")})
    with pytest.raises(DataError, match="MAYBE"):
        read("dfdc", parts)


def test_inverted_labels_are_refused_by_their_share(tmp_path: Path) -> None:
    names = {f"r{i}.mp4": entry("REAL") for i in range(50)} | {f"f{i}.mp4": entry("FAKE") for i in range(10)}
    plant(tmp_path, names)
    write_json(tmp_path / "metadata.json", names)
    with pytest.raises(DataError, match="inverted"):
        read("dfdc", tmp_path)


def test_a_labelled_test_folder_is_the_test_part(parts: Path) -> None:
    plant(parts, ["test/videos/t1.mp4", "test/videos/t2.mp4"])
    (parts / "test" / "labels.csv").write_text("filename,label\nt1.mp4,1\nt2.mp4,0\n")
    manifest = read("dfdc", parts)
    assert by_stem(manifest, "split")["t1"] == "test"
    assert by_stem(manifest, "label")["t1"] == FAKE


def test_unlabelled_videos_are_named(parts: Path) -> None:
    plant(parts, ["test_videos/x.mp4"])
    assert any("without labels" in note and "test_videos" in note for note in read("dfdc", parts).notes)


def test_the_real_copy_reads(shared_data: Path) -> None:
    assert counts(read("dfdc", shared_data / "dfdc")) == {REAL: 2, FAKE: 2}


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    root = tmp_path / "deepfake-faces"
    lines = ["videoname,original_width,original_height,label,original"]
    for n in range(12):
        lines.append(f"real{n}.mp4,1920,1080,REAL,")
        lines += [f"fake{n}x{i}.mp4,1920,1080,FAKE,real{n}.mp4" for i in range(5)]
    stems = [line.split(".")[0] for line in lines[1:]]
    plant(root, [f"faces_224/{stem}.jpg" for stem in stems])
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("below", ["", "faces_224", ".."])
def test_the_crops_are_found_from_around(faces: Path, below: str) -> None:
    assert counts(read("kaggle_deepfake_faces", (faces / below).resolve())) == {REAL: 12, FAKE: 60}


def test_crops_are_grouped_by_original(faces: Path) -> None:
    groups = by_stem(read("kaggle_deepfake_faces", faces), "groups")
    assert groups["fake3x1"] == groups["real3"] == ("dfdc/real3",)


def test_crops_are_split_by_original(faces: Path, tmp_path: Path) -> None:
    manifest = read_dataset(DatasetOptions(layout="kaggle_deepfake_faces", root=str(faces)), tmp_path)
    assert manifest.table.explode("groups").groupby("groups")["split"].nunique().max() == 1


def test_an_inverted_table_of_crops_is_refused(faces: Path) -> None:
    table = faces / "metadata.csv"
    table.write_text(table.read_text().replace("REAL", "X").replace("FAKE", "REAL").replace("X", "FAKE"))
    with pytest.raises(DataError, match="inverted"):
        read("kaggle_deepfake_faces", faces)


def test_crops_that_are_missing_are_counted(faces: Path) -> None:
    (faces / "faces_224" / "real0.jpg").unlink()
    assert any("names 1 of 72 faces" in note for note in read("kaggle_deepfake_faces", faces).notes)


def test_real_crops_are_grouped_by_original(shared_data: Path, tmp_path: Path) -> None:
    manifest = read_dataset(DatasetOptions(layout="images", root=str(shared_data / "dfdc_crops")), tmp_path)
    groups = by_stem(manifest, "groups")
    assert groups["aabyjxwqyo_ppulbuhtsc_0"] == groups["aabyjxwqyo_ppulbuhtsc_2"] == ("dfdc/ppulbuhtsc",)
    assert counts(manifest) == {REAL: 34, FAKE: 33}
