"""FaceForensics++'s official tree and Kaggle's flat copy of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.data.dataset import read_dataset
from deepfake.data.layouts.faceforensics import footage
from deepfake.data.manifest import FAKE, REAL
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError
from tests.data.layouts.trees import by_stem, counts, plant, read, write_json

REALS = "original_sequences/youtube/{c}/videos/{stem}.mp4"
FAKES = "manipulated_sequences/{method}/{c}/videos/{stem}.mp4"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    paths = [REALS.format(c="c23", stem=s) for s in ("000", "003", "100", "101", "200", "201")]
    for pair in ("000_003", "003_000", "100_101", "200_201"):
        paths += [FAKES.format(method=m, c="c23", stem=pair) for m in ("Deepfakes", "FaceSwap")]
    paths += ["original_sequences/actors/c23/videos/01__exit_phone_room.mp4"]
    paths += [FAKES.format(method="DeepFakeDetection", c="c23", stem="01_02__exit_phone_room__YVGY8LOK")]
    root = plant(tmp_path / "FF", paths)
    for name, pair in (("train", ["000", "003"]), ("val", ["100", "101"]), ("test", ["200", "201"])):
        write_json(root / "splits" / f"{name}.json", [pair])
    return root


def test_every_video_has_its_folders_label(tree: Path) -> None:
    assert counts(read("faceforensics", tree)) == {REAL: 7, FAKE: 9}


def test_a_fake_belongs_where_its_pair_is_in_both_orders(tree: Path) -> None:
    splits = by_stem(read("faceforensics", tree), "split")
    assert (splits["000_003"], splits["003_000"], splits["000"]) == ("train", "train", "train")


def test_groups_are_target_and_source(tree: Path) -> None:
    groups = by_stem(read("faceforensics", tree), "groups")
    assert groups["100_101"] == ("faceforensics/youtube/100", "faceforensics/youtube/101")


def test_actors_do_not_collide_with_youtube_clips() -> None:
    assert set(footage("01_02__walk__ABCDEFGH")) == {"faceforensics/actor/01", "faceforensics/actor/02"}
    assert not set(footage("001")) & set(footage("001__walk"))


def test_clips_of_one_youtube_video_are_one_group() -> None:
    assert footage("606") == footage("605")


def test_deepfakedetection_has_no_published_split(tree: Path) -> None:
    assert by_stem(read("faceforensics", tree), "split")["01_02__exit_phone_room__YVGY8LOK"] == ""


def test_methods_choose_and_leave_out_the_actors(tree: Path) -> None:
    assert set(read("faceforensics", tree, methods=["FaceSwap"]).table["method"]) == {"youtube", "FaceSwap"}


def test_an_unknown_method_names_the_nearest(tree: Path) -> None:
    with pytest.raises(DataError, match="Deepfakes"):
        read("faceforensics", tree, methods=["DeepFake"])


def test_an_unknown_compression_names_those_there(tree: Path) -> None:
    with pytest.raises(DataError, match="c23"):
        read("faceforensics", tree, compression="c40")


@pytest.mark.parametrize(("folder", "asked"), [("raw", "c0"), ("c0", "raw")])
def test_raw_and_c0_are_one_compression(tmp_path: Path, folder: str, asked: str) -> None:
    plant(tmp_path, [REALS.format(c=folder, stem="000"), FAKES.format(method="Deepfakes", c=folder, stem="000_003")])
    assert len(read("faceforensics", tmp_path, compression=asked)) == 2


def test_a_partial_copy_says_what_is_missing(tree: Path) -> None:
    assert "methods that are not there: Face2Face, NeuralTextures, FaceShifter" in read("faceforensics", tree).notes


def test_fakes_without_their_original_are_counted(tree: Path) -> None:
    (tree / REALS.format(c="c23", stem="200")).unlink()
    assert any("2 of 8 fakes have no original" in note for note in read("faceforensics", tree).notes)


def test_split_files_may_lie_elsewhere(tree: Path, tmp_path: Path) -> None:
    (tree / "splits").rename(tmp_path / "lists")
    assert by_stem(read("faceforensics", tree, split_files=str(tmp_path / "lists")), "split")["100"] == "val"


def test_a_split_file_that_holds_no_pairs_is_refused(tree: Path) -> None:
    write_json(tree / "splits" / "val.json", ["100", "101"])
    with pytest.raises(DataError, match="no pair"):
        read("faceforensics", tree)


def test_a_sample_that_straddles_the_published_splits_is_left_out(tree: Path, tmp_path: Path) -> None:
    plant(tree, [FAKES.format(method="Deepfakes", c="c23", stem="000_200")])
    manifest = read_dataset(DatasetOptions(layout="faceforensics", root=str(tree)), tmp_path)
    assert "000_200" not in by_stem(manifest, "split")
    assert any("in two published splits" in note for note in manifest.notes)


def test_published_overlaps_are_told_and_strict_removes_them(tmp_path: Path) -> None:
    stems = ["605", "591", "606", "567", "300", "301", "000"]
    root = plant(tmp_path / "FF", [REALS.format(c="c23", stem=s) for s in stems])
    pairs = {"train": ["591", "605"], "test": ["606", "567"], "val": ["300", "301"]}
    plant(root, [FAKES.format(method="Deepfakes", c="c23", stem="_".join(pair)) for pair in pairs.values()])
    plant(root, [FAKES.format(method="Deepfakes", c="c23", stem="000_003")])
    for name, pair in pairs.items():
        write_json(root / "splits" / f"{name}.json", [pair, ["000", "003"]] if name == "train" else [pair])
    options = DatasetOptions(layout="faceforensics", root=str(root))
    told = read_dataset(options, tmp_path)
    assert any("share 1 groups" in note for note in told.notes)
    options.splits = "strict"
    made = read_dataset(options, tmp_path)
    assert set(by_stem(made, "split")) == {"591", "606", "567", "606_567", "300", "301", "300_301", "000", "000_003"}


def test_the_real_copy_uses_the_published_split(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "FaceForensics++"
    splits = by_stem(read_dataset(DatasetOptions(layout="faceforensics", root=str(root)), tmp_path), "split")
    assert [splits[s] for s in ("519", "519_515", "004", "004_982", "634", "634_660")] == [
        "train", "train", "val", "val", "test", "test",
    ]  # fmt: skip


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    root = tmp_path / "FaceForensics++_C23"
    plant(root, [f"original/{n:03d}.mp4" for n in range(6)])
    plant(root, [f"{m}/{a:03d}_{a ^ 1:03d}.mp4" for m in ("Deepfakes", "FaceShifter") for a in range(6)])
    plant(root, ["DeepFakeDetection/01_02__walk__ABCDEFGH.mp4"])
    (root / "csv").mkdir()
    (root / "csv" / "FF++_Metadata.csv").write_text(
        ",File Path,Label\n0,original/000.mp4,REAL\n1,Deepfakes/000_001.mp4,FAKE\n"
    )
    return root


def test_the_flat_copy_has_its_folders_labels(kaggle: Path) -> None:
    assert counts(read("kaggle_ff_c23", kaggle)) == {REAL: 6, FAKE: 13}


def test_the_flat_copy_is_grouped_as_the_official_tree(kaggle: Path) -> None:
    assert by_stem(read("kaggle_ff_c23", kaggle), "groups")["000_001"] == footage("000_001")


def test_the_flat_copy_warns_of_actors_without_originals(kaggle: Path) -> None:
    assert any("gives the label away" in note for note in read("kaggle_ff_c23", kaggle).notes)


def test_the_flat_copy_is_split_by_pairs(kaggle: Path, tmp_path: Path) -> None:
    splits = by_stem(read_dataset(DatasetOptions(layout="kaggle_ff_c23", root=str(kaggle)), tmp_path), "split")
    assert all(splits[f"{a:03d}"] == splits[f"{a:03d}_{a ^ 1:03d}"] == splits[f"{a ^ 1:03d}"] for a in range(6))


def test_a_table_that_contradicts_the_folders_is_refused(kaggle: Path) -> None:
    table = kaggle / "csv" / "FF++_Metadata.csv"
    table.write_text(table.read_text().replace("REAL", "X").replace("FAKE", "REAL").replace("X", "FAKE"))
    with pytest.raises(DataError, match="inverted"):
        read("kaggle_ff_c23", kaggle)


def test_an_unknown_folder_beside_is_named(kaggle: Path) -> None:
    plant(kaggle, ["Extra/000.mp4"])
    assert "folders that are not read: Extra" in read("kaggle_ff_c23", kaggle).notes


def test_four_stands_for_those_of_the_four_that_are_there(tree: Path) -> None:
    manifest = read("faceforensics", tree, methods=["four"])
    assert set(manifest.table["method"]) == {"youtube", "Deepfakes", "FaceSwap"}


def test_four_and_others_are_named_beside_each_other(tree: Path) -> None:
    plant(tree, ["manipulated_sequences/FaceShifter/c23/videos/000_001.mp4"])
    assert "FaceShifter" not in set(read("faceforensics", tree, methods=["four"]).table["method"])
    assert "not read: DeepFakeDetection, FaceShifter; dataset.methods=null" in " ".join(
        read("faceforensics", tree, methods=["four"]).notes
    )
    assert "FaceShifter" in set(read("faceforensics", tree, methods=["four", "FaceShifter"]).table["method"])


def test_without_any_of_the_four_it_says_what_to_name(tmp_path: Path) -> None:
    plant(tmp_path, ["original_sequences/youtube/c23/videos/000.mp4"])
    plant(tmp_path, ["manipulated_sequences/FaceShifter/c23/videos/000_001.mp4"])
    with pytest.raises(DataError, match=r"none of the four methods .* there is FaceShifter") as caught:
        read("faceforensics", tmp_path, methods=["four"])
    assert caught.value.hint == "name what to read: dataset.methods=[FaceShifter]; dataset.methods=null reads all"


def test_the_config_reads_the_four_and_null_all(tree: Path) -> None:
    from deepfake.hydra_app import compose_config

    assert compose_config(["dataset=faceforensics"]).dataset.methods == ["four"]
    assert compose_config(["dataset=faceforensics", "dataset.methods=null"]).dataset.methods is None


def test_actors_and_their_fakes_are_a_set_of_their_own(tmp_path: Path) -> None:
    plant(tmp_path, ["original_sequences/youtube/c23/videos/000.mp4"])
    plant(tmp_path, [f"original_sequences/actors/c23/videos/0{n}__walk.mp4" for n in (1, 2)])
    fake = "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__walk__YVGY8LOK.mp4"
    plant(tmp_path, [fake, "manipulated_sequences/Deepfakes/c23/videos/000_001.mp4"])
    manifest = read("dfd", tmp_path)
    assert manifest.table["method"].value_counts().to_dict() == {"actors": 2, "DeepFakeDetection": 1}
    assert by_stem(manifest, "groups")["01_02__walk__YVGY8LOK"] == (
        "faceforensics/actor/01",
        "faceforensics/actor/02",
    )
    assert set(manifest.table["split"]) == {""}
    assert not manifest.official
