"""Splits: whole groups, fair shares, published ones kept, the missing ones carved."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.options import DatasetOptions
from deepfake.data.splits import assign_splits, crossing_groups
from deepfake.errors import DataError


def manifest_of(rows: list[tuple[int, tuple[str, ...], str]], official: bool = False) -> Manifest:
    """Rows of label, groups, split."""
    table = make_rows(
        {
            "sample_id": f"s/{i:04d}", "path": f"{i}.mp4", "kind": "video", "label": label, "dataset": "s",
            "method": "fake" if label else "real", "groups": groups, "split": split,
        }
        for i, (label, groups, split) in enumerate(rows)
    )  # fmt: skip
    return Manifest(table, {"s": Path("/nowhere")}, official=official)


def singles(count: int, split: str = "") -> list[tuple[int, tuple[str, ...], str]]:
    return [(i % 2, (f"{split}g{i}",), split) for i in range(count)]


def test_shares_are_as_asked_in_each_class() -> None:
    table = assign_splits(manifest_of(singles(200)), DatasetOptions(split_ratios=[0.6, 0.2, 0.2])).table
    assert table.groupby(["split", "label"]).size().to_dict() == {
        ("train", 0): 60, ("train", 1): 60, ("val", 0): 20, ("val", 1): 20, ("test", 0): 20, ("test", 1): 20,
    }  # fmt: skip


def test_groups_stay_whole_through_chains() -> None:
    rows = [(i % 2, (f"a{i // 3}", f"b{i // 4}"), "") for i in range(24)] + singles(100)
    made = assign_splits(manifest_of(rows), DatasetOptions())
    assert crossing_groups(made.table).empty


def test_another_seed_deals_differently_and_the_same_alike() -> None:
    first, again, other = (
        assign_splits(manifest_of(singles(60)), DatasetOptions(split_seed=seed)).table["split"].tolist()
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_people_who_all_meet_are_parted_and_bridges_dropped() -> None:
    people = [f"p{i}" for i in range(12)]
    rows: list[tuple[int, tuple[str, ...], str]] = [(0, (p,), "") for p in people for _ in range(5)]
    rows += [(1, (a, b), "") for a in people for b in people if a != b]
    made = assign_splits(manifest_of(rows), DatasetOptions())
    assert crossing_groups(made.table).empty
    assert set(made.table["split"]) == {"train", "val", "test"}
    assert any("would join two splits are left out" in note for note in made.notes)


@pytest.mark.parametrize("count", [4, 6, 10])
def test_small_sets_leave_no_split_empty(count: int) -> None:
    table = assign_splits(manifest_of(singles(count)), DatasetOptions()).table
    assert set(table["split"]) == {"train", "val", "test"}
    assert set(table.loc[table["split"] == "train", "label"]) == {0, 1}


def test_published_splits_are_kept() -> None:
    rows = singles(20, "train") + singles(6, "val") + singles(6, "test")
    table = assign_splits(manifest_of(rows), DatasetOptions()).table
    assert table["split"].tolist() == [split for _, _, split in rows]


def test_a_missing_split_is_carved_from_train_and_said() -> None:
    made = assign_splits(manifest_of(singles(100, "train") + singles(20, "val")), DatasetOptions())
    assert made.table["split"].value_counts().to_dict() == {"train": 82, "val": 20, "test": 18}
    assert made.notes == ["no published test split: carved from train by group (train 82, test 18)"]


def test_grouped_ignores_published_splits() -> None:
    rows = singles(10, "train") + singles(90, "test")
    table = assign_splits(manifest_of(rows), DatasetOptions(splits="grouped")).table
    assert (table["split"] == "train").sum() == 70


def test_official_without_published_splits_is_refused() -> None:
    with pytest.raises(DataError, match="no published splits"):
        assign_splits(manifest_of(singles(10)), DatasetOptions(splits="official"))


def test_official_leaves_out_what_no_split_names() -> None:
    rows = singles(10, "train") + singles(4, "val") + singles(4, "test") + singles(3)
    made = assign_splits(manifest_of(rows), DatasetOptions(splits="official"))
    assert len(made) == 18
    assert made.notes == ["left out 3 samples that no published split names"]


def test_what_no_split_names_goes_where_its_footage_is() -> None:
    rows = [*singles(10, "train"), *singles(4, "val"), *singles(4, "test"), (1, ("testg0",), "")]
    assert assign_splits(manifest_of(rows), DatasetOptions()).table["split"].tolist()[-1] == "test"


def overlapping() -> Manifest:
    rows = [*singles(10, "train"), *singles(6, "val"), *singles(6, "test")]
    rows += [(1, ("testg0", "trainx"), "train"), (0, ("valg1",), "train")]
    return manifest_of(rows, official=True)


def test_overlaps_of_published_splits_are_told() -> None:
    notes = assign_splits(overlapping(), DatasetOptions()).notes
    assert any("published splits share 2 groups" in note and "testg0" in note for note in notes)


def test_strict_keeps_test_and_says_what_moved_or_was_dropped() -> None:
    made = assign_splits(overlapping(), DatasetOptions(splits="strict"))
    assert crossing_groups(made.table).empty
    assert (made.table["split"] == "test").sum() == 6
    assert any("dropped 1 from train" in note for note in made.notes)
    assert any("moved 1 samples between train and val" in note for note in made.notes)


def test_ratios_without_a_training_part_are_refused() -> None:
    with pytest.raises(DataError, match="no training part"):
        assign_splits(manifest_of(singles(10)), DatasetOptions(split_ratios=[0.0, 0.5, 0.5]))


def test_many_samples_are_split_in_seconds() -> None:
    assert len(assign_splits(manifest_of(singles(20_000)), DatasetOptions()).table) == 20_000


def clusters(sizes: list[int]) -> Manifest:
    """Groups of so many samples each, half of them fake."""
    return manifest_of([(i % 2, (f"c{n}",), "") for n, size in enumerate(sizes) for i in range(size)])


@pytest.mark.parametrize("sizes", [[58, 58, 2], [300, 300, 300, 10]], ids=str)
def test_few_large_groups_give_other_shares_and_say_so(sizes: list[int]) -> None:
    notes = assign_splits(clusters(sizes), DatasetOptions()).notes
    assert any(f"the largest of {max(sizes)} samples" in note and "rather than 15%" in note for note in notes)


@pytest.mark.parametrize("sizes", [[1] * 6, [1] * 10, [1] * 200, [4] * 40], ids=["6", "10", "200", "fours"])
def test_shares_as_near_as_whole_samples_allow_are_not_remarked_on(sizes: list[int]) -> None:
    assert assign_splits(clusters(sizes), DatasetOptions()).notes == []
