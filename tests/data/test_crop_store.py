"""What lies in a cache, and being rid of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from deepfake.data.crop_store import create_store, list_stores, prune_stores, store_folder
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.options import DatasetOptions
from deepfake.data.prepare import cut_settings, prepare_crops
from deepfake.errors import DataError
from tests.data.making import write_video
from tests.data.test_prepare import manifest_of, options


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    root.mkdir()
    write_video(root / "a.mp4", 6)
    (root / "b.mp4").write_bytes(b"")
    for size in (16, 24):
        prepare_crops(manifest_of(root), options(size=size, max_failed=1.0), False, tmp_path / "cache", workers=0)
    return tmp_path / "cache"


def test_stores_are_listed_with_what_they_hold(cache: Path) -> None:
    found = list_stores(cache)
    assert {info.settings["size"] for info in found} == {16, 24}
    assert [(info.samples, info.failed) for info in found] == [(2, 1)] * 2
    assert all(info.bytes > 2 * 4 * info.settings["size"] ** 2 * 3 * 0.7 for info in found)


def test_an_empty_cache_has_no_stores(tmp_path: Path) -> None:
    assert list_stores(tmp_path) == []


def test_pruning_keeps_what_is_named(cache: Path) -> None:
    kept = list_stores(cache)[0].key
    assert len(prune_stores(cache, keep=[kept[:8]])) == 1
    assert [info.key for info in list_stores(cache)] == [kept]


def test_pruning_with_a_wrong_name_removes_nothing(cache: Path) -> None:
    with pytest.raises(DataError, match="no crop store 'nothing'"):
        prune_stores(cache, keep=["nothing"])
    assert len(list_stores(cache)) == 2


def test_a_store_in_use_is_left_alone(cache: Path) -> None:
    used = list_stores(cache)[0]
    with FileLock(used.path / "shard-0-of-1.lock"):
        assert used.key not in [info.key for info in prune_stores(cache)]
    assert [info.key for info in list_stores(cache)] == [used.key]


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", 4)
    (tmp_path / "cache").write_text("a file stands in the way")
    with pytest.raises(DataError, match="crops cannot be kept"):
        prepare_crops(manifest_of(tmp_path / "videos"), options(), False, tmp_path / "cache", workers=0)


def test_stores_of_one_face_are_those_of_before(tmp_path: Path) -> None:
    settings = cut_settings(DatasetOptions(faces="mtcnn"), False, tmp_path)
    manifest = Manifest(make_rows([]), {"set": tmp_path})
    described = json.loads((create_store(manifest, settings, tmp_path) / "store.json").read_text())
    assert "max_faces" not in described["settings"]
    several = cut_settings(DatasetOptions(faces="mtcnn", max_faces=2), False, tmp_path)
    assert store_folder(manifest, several, tmp_path) != store_folder(manifest, settings, tmp_path)
    whole = cut_settings(DatasetOptions(faces="none", max_faces=2), False, tmp_path)
    assert whole.max_faces == 1
