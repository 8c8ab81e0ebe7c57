from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from deepfake.data.digests import digest_files, known_digests
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.work import stamp


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    shared = {"kind": "video", "method": "m", "dataset": "d", "bytes": 1}
    rows = [{"sample_id": f"d/m/{name}", "path": f"{name}.mp4", "label": i, **shared} for i, name in enumerate("abc")]
    return Manifest(make_rows(rows), {"d": tmp_path})


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_every_file_is_read_and_a_missing_one_has_no_digest(manifest: Manifest) -> None:
    table = digest_files(manifest, {}).table
    assert table["sha256"].tolist() == [digest("a"), digest("b"), ""]
    assert table["bytes"].tolist() == [1, 1, -1]


def test_a_file_unchanged_since_it_was_noted_is_not_read_again(manifest: Manifest, tmp_path: Path) -> None:
    noted = {"d/m/a": {**stamp(tmp_path / "a.mp4"), "sha256": "noted"}}
    assert digest_files(manifest, noted).table["sha256"].tolist()[:2] == ["noted", digest("b")]


def test_a_file_that_grew_since_it_was_noted_is_read_again(manifest: Manifest, tmp_path: Path) -> None:
    noted = {"d/m/a": {**stamp(tmp_path / "a.mp4"), "sha256": "noted"}}
    (tmp_path / "a.mp4").write_bytes(b"aa")
    assert digest_files(manifest, noted).table["sha256"].iloc[0] == digest("aa")


def test_a_store_fills_in_what_it_noted(manifest: Manifest) -> None:
    table = known_digests(manifest, {"d/m/a": {"sha256": "noted"}}).table
    assert table["sha256"].tolist() == ["noted", "", ""]
    assert manifest.table["sha256"].tolist() == ["", "", ""]
