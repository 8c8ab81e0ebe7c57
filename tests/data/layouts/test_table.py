"""A user's own table: what its labels, columns and paths may look like."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from deepfake.data.layouts.table import parse_label
from deepfake.data.manifest import FAKE, REAL
from deepfake.data.options import DatasetOptions
from deepfake.data.read import read_dataset
from deepfake.errors import DataError
from tests.data.layouts.trees import by_stem, counts, plant, read


@pytest.fixture
def table(tmp_path: Path) -> Path:
    plant(tmp_path, [f"clips/{n}.mp4" for n in range(12)])
    frame = pd.DataFrame({"path": [f"clips/{n}.mp4" for n in range(12)], "label": ["REAL", "FAKE"] * 6})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path / "mine.csv"


def rewrite(table: Path, **columns: object) -> None:
    pd.read_csv(table).assign(**columns).to_csv(table, index=False)


@pytest.mark.parametrize("form", [1, "1", "1.0", "FAKE", "fake", " Fake ", True, "true"])
def test_forms_of_fake(form: object) -> None:
    assert parse_label(form, "row 2") == FAKE


@pytest.mark.parametrize("form", [0, "0", "REAL", "real", False, "False"])
def test_forms_of_real(form: object) -> None:
    assert parse_label(form, "row 2") == REAL


def test_an_unknown_label_quotes_its_row(table: Path) -> None:
    rewrite(table, label=["REAL", "FAKE"] * 5 + ["REAL", "perhaps"])
    with pytest.raises(DataError, match=r"row 13: 'perhaps'"):
        read("table", table.parent)


def test_fake_is_one(table: Path) -> None:
    assert counts(read("table", table.parent)) == {REAL: 6, FAKE: 6}


def test_a_parquet_table_reads_alike(table: Path) -> None:
    pd.read_csv(table).to_parquet(table.with_suffix(".parquet"))
    table.unlink()
    assert len(read("table", table.parent)) == 12


def test_columns_may_be_named(table: Path) -> None:
    pd.read_csv(table).rename(columns={"path": "clip", "label": "y"}).to_csv(table, index=False)
    options = DatasetOptions(layout="table", table=str(table), columns={"path": "clip", "label": "y"})
    assert len(read_dataset(options, table.parent)) == 12


def test_a_missing_column_says_which_there_are(table: Path) -> None:
    pd.read_csv(table).rename(columns={"label": "verdict"}).to_csv(table, index=False)
    with pytest.raises(DataError, match="no label column; its columns are path, verdict"):
        read_dataset(DatasetOptions(layout="table", table=str(table)), table.parent)


def test_groups_keep_rows_together(table: Path, tmp_path: Path) -> None:
    rewrite(table, group=[n // 2 for n in range(12)])
    splits = by_stem(read_dataset(DatasetOptions(layout="table", table=str(table)), tmp_path), "split")
    assert all(splits[str(n)] == splits[str(n + 1)] for n in range(0, 12, 2))


def test_its_splits_and_methods_are_kept(table: Path) -> None:
    rewrite(table, split=["train"] * 6 + ["validation"] * 3 + ["test"] * 3, method=["", "swap"] * 6)
    manifest = read("table", table.parent)
    assert manifest.table["split"].value_counts().to_dict() == {"train": 6, "val": 3, "test": 3}
    assert set(manifest.table["method"]) == {"real", "swap"}


def test_an_unknown_split_is_quoted(table: Path) -> None:
    rewrite(table, split=["train"] * 11 + ["holdout"])
    with pytest.raises(DataError, match="holdout"):
        read("table", table.parent)


def test_two_rows_with_one_path_are_refused(table: Path) -> None:
    rewrite(table, path=[f"clips/{n}.mp4" for n in range(11)] + ["clips/0.mp4"])
    with pytest.raises(DataError, match="rows 2 and 13 have one path"):
        read("table", table.parent)


def test_files_that_are_not_there_are_counted_and_listed(table: Path) -> None:
    (table.parent / "clips" / "3.mp4").unlink()
    manifest = read("table", table.parent)
    assert len(manifest) == 11
    assert "1 of 12 files that the table names are not there: clips/3.mp4" in manifest.notes


def test_labels_that_contradict_the_folders_are_refused(tmp_path: Path) -> None:
    paths = [f"{c}/{n}.jpg" for c in ("real", "fake") for n in range(10)]
    plant(tmp_path, paths)
    pd.DataFrame({"path": paths, "label": [1] * 10 + [0] * 10}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="inverted"):
        read("table", tmp_path)


def test_what_else_it_says_of_a_sample_goes_along(table: Path) -> None:
    rewrite(table, camera=range(len(pd.read_csv(table))))
    found = read("table", table.parent, table=str(table)).table
    assert set(found["camera"]) == {str(i) for i in range(len(found))}
