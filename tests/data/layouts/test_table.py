"""A user's own table: what its labels, columns and paths may look like."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from deepfake.data.dataset import read_dataset
from deepfake.data.layouts.table import parse_label
from deepfake.data.manifest import FAKE, REAL, Manifest, rooted_table, save_manifest
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError
from tests.data.layouts.trees import by_stem, counts, plant, read
from tests.end_to_end.test_layouts import TREES


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


def test_labels_that_contradict_the_files_names_are_noticed(tmp_path: Path) -> None:
    names = [f"{word}_{n}.jpg" for n in range(8) for word in ("real", "fake")]
    plant(tmp_path, names)
    rows = [f"{name},{int(name.startswith('real'))}" for name in names]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    notes = read("table", tmp_path).notes
    assert any("look inverted: 16 of 16 files have names that say the opposite" in note for note in notes)


@pytest.mark.parametrize("name", ["fake_original", "clip", "surreal"])
def test_names_that_tell_no_class_or_both_are_no_sign(name: str, tmp_path: Path) -> None:
    names = [f"{name}_{n}.jpg" for n in range(16)]
    plant(tmp_path, names)
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *(f"{name},{n % 2}" for n, name in enumerate(names))]))
    assert read("table", tmp_path).notes == []


def written(manifest: Manifest, root: Path | None, file: Path) -> DatasetOptions:
    """The options that read a manifest back from a file it was written to."""
    save_manifest(replace(manifest, table=rooted_table(manifest, root)), file)
    return DatasetOptions(name="table", layout="table", root=None if root is None else str(root), table=str(file))


KEPT = ["sample_id", "label", "method", "groups", "split", "dataset", "kind", "bytes"]


def same(first: Manifest, second: Manifest) -> bool:
    """Whether two manifests are of the same samples, in the same files."""
    files = [[m.file(d, p).resolve() for d, p in m.table[["dataset", "path"]].to_numpy()] for m in (first, second)]
    originals = [m.table.get("original", pd.Series([""] * len(m))).tolist() for m in (first, second)]
    return first.table[KEPT].equals(second.table[KEPT]) and files[0] == files[1] and originals[0] == originals[1]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("layout", TREES)
def test_a_written_manifest_reads_back_as_the_same_samples(layout: str, suffix: str, tmp_path: Path) -> None:
    root = tmp_path / "above" / "set"
    TREES[layout](root)
    before = read_dataset(DatasetOptions(name=layout, layout=layout, root=str(root)), tmp_path)
    after = read_dataset(written(before, root, tmp_path / "tables" / f"m{suffix}"), tmp_path)
    assert same(before, after)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_mix_reads_back_as_the_same_samples(suffix: str, tmp_path: Path) -> None:
    for name in ("celebdf", "images"):
        TREES[name](tmp_path / name)
    parts = [{"layout": name, "root": str(tmp_path / name)} for name in ("celebdf", "images")]
    before = read_dataset(DatasetOptions(name="mix", layout="mix", parts=parts), tmp_path)
    assert same(before, read_dataset(written(before, None, tmp_path / f"m{suffix}"), tmp_path))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_any_file_name_reads_back(suffix: str, tmp_path: Path) -> None:
    for n, odd in enumerate((b"a\xe9", b"b\\c", b"d;e,f", "ü".encode(), b"g h", b'i"j')):
        for word in ("real", "fake"):
            folder = tmp_path / "set" / word
            folder.mkdir(parents=True, exist_ok=True)
            (folder / os.fsdecode(odd + str(n).encode() + b".jpg")).write_bytes(b"x")
    before = read_dataset(DatasetOptions(name="images", layout="images", root=str(tmp_path / "set")), tmp_path)
    assert same(before, read_dataset(written(before, tmp_path / "set", tmp_path / f"m{suffix}"), tmp_path))


def test_a_written_manifest_beside_its_own_data_set_is_refused_in_a_mix(tmp_path: Path) -> None:
    TREES["images"](tmp_path / "images")
    before = read_dataset(DatasetOptions(name="images", layout="images", root=str(tmp_path / "images")), tmp_path)
    table = written(before, tmp_path / "images", tmp_path / "m.csv")
    parts = [
        {"layout": "images", "root": str(tmp_path / "images")},
        {"layout": "table", "root": str(table.root), "table": str(table.table)},
    ]
    with pytest.raises(DataError, match="holds samples of images, as another part does"):
        read_dataset(DatasetOptions(layout="mix", parts=parts), tmp_path)
