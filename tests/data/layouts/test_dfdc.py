"""DFDC's parts, its Kaggle sample, and the face crops made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.data.audit import audit_dataset
from deepfake.data.dataset import read_dataset
from deepfake.data.manifest import FAKE, REAL, Manifest
from deepfake.data.options import DatasetOptions
from deepfake.data.splits import crossing_groups
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
    assert groups["real1"] == groups["fake12"] == ("dfdc/real1", "dfdc/dfdc_train_part_1")


def many(root: Path, sizes: dict[str, int]) -> Path:
    """Folders of so many originals each, with two fakes of each original."""
    for folder, count in sizes.items():
        names = {f"{folder}r{n}.mp4": entry("REAL") for n in range(count)}
        names |= {f"{folder}f{n}{i}.mp4": entry("FAKE", f"{folder}r{n}.mp4") for n in range(count) for i in range(2)}
        plant(root / folder, names)
        write_json(root / folder / "metadata.json", names)
    return root


def sides_of_folders(root: Path, cache: Path, **options: object) -> tuple[dict[str, set[str]], Manifest]:
    """The splits that each folder's videos are in, and the manifest."""
    manifest = read_dataset(DatasetOptions(layout="dfdc", root=str(root), **options), cache)  # type: ignore[arg-type]
    folders = manifest.table["path"].str.split("/").str[0]
    return manifest.table["split"].groupby(folders).agg(set).to_dict(), manifest


@pytest.mark.parametrize("parts", [3, 4, 10])
def test_parts_whose_people_are_not_named_are_dealt_whole(parts: int, tmp_path: Path) -> None:
    root = many(tmp_path / "dfdc", {f"dfdc_train_part_{n}": 12 for n in range(parts)})
    sides, manifest = sides_of_folders(root, tmp_path)
    assert all(len(own) == 1 for own in sides.values())
    assert set.union(*sides.values()) == {"train", "val", "test"}
    assert not manifest.unknown
    assert any(f"the {parts} parts are kept whole" in note for note in manifest.notes)


def test_three_equal_parts_cannot_give_the_shares_and_say_so(tmp_path: Path) -> None:
    root = many(tmp_path / "dfdc", {f"dfdc_train_part_{n}": 12 for n in range(3)})
    notes = sides_of_folders(root, tmp_path)[1].notes
    assert any("train 33% of the samples rather than 70%" in note for note in notes)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"train_sample_videos": 40}, "no folder says which part"),
        ({"dfdc_train_part_0": 40}, "1 part cannot make 3 splits"),
        ({"dfdc_train_part_0": 40, "dfdc_train_part_1": 40}, "2 parts cannot make 3 splits"),
        ({"dfdc_train_part_0": 90, "dfdc_train_part_1": 4, "dfdc_train_part_2": 4}, "more than 85%"),
        ({"dfdc_train_part_0": 9, "dfdc_train_part_1": 9, "dfdc_train_part_2": 9, "x": 9}, "no folder says"),
    ],
    ids=["sample", "one", "two", "one giant", "some without a part"],
)
def test_where_parts_cannot_make_splits_originals_do_and_the_audit_says_so(
    sizes: dict[str, int], why: str, tmp_path: Path
) -> None:
    sides, manifest = sides_of_folders(many(tmp_path / "dfdc", sizes), tmp_path)
    assert set.union(*sides.values()) == {"train", "val", "test"}
    assert crossing_groups(manifest.table).empty
    warnings = audit_dataset(manifest).warnings
    assert any("people are named nowhere and may be on both sides" in text and why in text for text in warnings)


def test_two_parts_make_two_splits(tmp_path: Path) -> None:
    root = many(tmp_path / "dfdc", {f"dfdc_train_part_{n}": 12 for n in range(2)})
    sides, _ = sides_of_folders(root, tmp_path, split_ratios=[0.8, 0.0, 0.2])
    assert sorted(map(sorted, sides.values())) == [["test"], ["train"]]


def test_the_crops_that_name_no_part_say_that_people_may_be_shared(tmp_path: Path) -> None:
    plant(tmp_path, [f"faces_224/v{n}.jpg" for n in range(20)])
    rows = [f"v{n}.mp4,{'REAL' if n < 4 else 'FAKE'},{'' if n < 4 else f'v{n % 4}.mp4'}" for n in range(20)]
    (tmp_path / "metadata.csv").write_text("\n".join(["videoname,label,original", *rows]))
    manifest = read("kaggle_deepfake_faces", tmp_path)
    assert any("same person may be on both sides" in text for text in audit_dataset(manifest).warnings)


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


@pytest.mark.parametrize("folder", ["", "test/"])
def test_a_labelled_test_part_is_enough_alone(tmp_path: Path, folder: str) -> None:
    plant(tmp_path, [f"{folder}videos/{name}.mp4" for name in "ab"])
    (tmp_path / folder / "labels.csv").write_text("filename,label\na.mp4,1\nb.mp4,0\n")
    manifest = read("dfdc", tmp_path)
    assert by_stem(manifest, "label") == {"a": 1, "b": 0}
    assert set(manifest.table["split"]) == {"test"}


def test_another_table_of_that_name_is_none_of_it(tmp_path: Path) -> None:
    plant(tmp_path, ["a.mp4"])
    (tmp_path / "labels.csv").write_text("name;class\na;1\n")
    from deepfake.data.layouts import LAYOUTS

    assert LAYOUTS["dfdc"].probe(tmp_path) is None
