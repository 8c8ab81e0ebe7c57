"""Files of a manifest are found again by their content, whatever they are called now."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from deepfake.data.digests import find_files, with_facts
from deepfake.data.manifest import make_rows

CONTENTS = {"a.png": b"first", "b.png": b"other", "sub/c.png": b"a third one"}


@pytest.fixture
def then() -> pd.DataFrame:
    return make_rows(
        {
            "sample_id": f"d/{path[:-4]}", "path": path, "kind": "image", "label": n % 2, "method": "m", "dataset": "d",
            "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
        }
        for n, (path, content) in enumerate(CONTENTS.items())
    )  # fmt: skip


def planted(root: Path, names: dict[str, bytes]) -> Path:
    for name, content in names.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


def test_what_lies_where_it_lay_keeps_its_name(then: pd.DataFrame, tmp_path: Path) -> None:
    found = find_files(then, {"d": planted(tmp_path, CONTENTS)})
    assert found.manifest.table.equals(then)
    assert not found.renamed
    assert found.missing.empty


def test_other_names_and_folders_are_found(then: pd.DataFrame, tmp_path: Path) -> None:
    moved = {f"deep/down/{n}.bin": content for n, content in enumerate(CONTENTS.values())}
    found = find_files(then, {"d": planted(tmp_path, {**moved, "more.bin": b"fffff"})})
    assert list(found.manifest.table["sample_id"]) == list(then["sample_id"])
    assert found.renamed == {"a.png": "deep/down/0.bin", "b.png": "deep/down/1.bin", "sub/c.png": "deep/down/2.bin"}


def test_two_that_changed_places_are_told_apart(then: pd.DataFrame, tmp_path: Path) -> None:
    found = find_files(then, {"d": planted(tmp_path, {**CONTENTS, "a.png": b"other", "b.png": b"first"})})
    assert found.renamed == {"a.png": "b.png", "b.png": "a.png"}


def test_another_content_at_the_old_place_stays_and_what_is_nowhere_is_missing(
    then: pd.DataFrame, tmp_path: Path
) -> None:
    found = find_files(then, {"d": planted(tmp_path, {"a.png": b"first", "b.png": b"changed"})})
    assert list(found.manifest.table["path"]) == ["a.png", "b.png"]
    assert found.missing["path"].tolist() == ["sub/c.png"]


def test_copies_are_given_to_one_sample_each(then: pd.DataFrame, tmp_path: Path) -> None:
    twice = then.assign(sha256=then["sha256"].iloc[0], bytes=5)
    found = find_files(twice, {"d": planted(tmp_path, {"x": b"first", "y": b"first", "z": b"first"})})
    assert sorted(found.manifest.table["path"]) == ["x", "y", "z"]
    # Fewer copies than samples: one is read for several.
    (tmp_path / "z").unlink()
    assert len(find_files(twice, {"d": tmp_path}).manifest) == 3


def test_without_digests_names_are_all_there_is(then: pd.DataFrame, tmp_path: Path) -> None:
    found = find_files(then.assign(sha256=""), {"d": planted(tmp_path, {"a.png": b"x", "q.png": b"other"})})
    assert list(found.manifest.table["path"]) == ["a.png"]
    assert len(found.missing) == 2


def test_facts_of_some_are_exchanged(then: pd.DataFrame, tmp_path: Path) -> None:
    manifest = find_files(then, {"d": planted(tmp_path, CONTENTS)}).manifest
    table = with_facts(manifest, {"d/b": (7, "new")}).table
    assert table["bytes"].tolist() == [5, 7, 11]
    assert table["sha256"].tolist()[1] == "new"
