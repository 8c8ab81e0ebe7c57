"""A crop store is filled once, by whoever comes first, and told by the files' digests."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock

from deepfake.data.crop_store import CropStore
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.options import DatasetOptions
from deepfake.data.prepare import cut_settings, digest_files, known_digests, prepare_crops
from deepfake.data.prepare_worker import stamp
from deepfake.errors import DataError
from tests.data.making import number_of, write_video


class Told:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0

    def start(self, total: int, text: str) -> None:
        self.total = total

    def advance(self, n: int = 1) -> None:
        self.done += n

    def stop(self) -> None:
        pass


def options(**changes: object) -> DatasetOptions:
    plain: dict[str, object] = {"faces": "center", "size": 32, "frames": 4, "clips": 2, "stride": 1}
    return DatasetOptions(**{**plain, **changes})  # type: ignore[arg-type]


def manifest_of(root: Path) -> Manifest:
    rows = [
        {
            "sample_id": f"set/{path.stem}",
            "path": path.name,
            "kind": "image" if path.suffix == ".png" else "video",
            "label": i % 2,
            "method": "m",
            "dataset": "set",
        }
        for i, path in enumerate(sorted(root.iterdir()))
    ]
    return Manifest(make_rows(rows), {"set": root})


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name in "abc":
        write_video(root / f"{name}.mp4", 20, size=(96, 96))
    return root


def prepare(manifest: Manifest, cache: Path, **changes: object) -> tuple[CropStore, Told]:
    told = Told()
    store = prepare_crops(manifest, options(**changes), False, cache, workers=0, progress=told)
    return store, told


def test_clips_hold_the_frames_their_records_name(videos: Path, tmp_path: Path) -> None:
    store, _ = prepare(manifest_of(videos), tmp_path, size=96)
    table = store.frames[(store.frames["sample_id"] == "set/b") & (store.frames["clip"] == 1)]
    clip, _ = store.clip("set/b", 1)
    assert [number_of(frame) for frame in clip] == table["frame_index"].tolist()


def test_the_second_time_nothing_is_prepared(videos: Path, tmp_path: Path) -> None:
    prepare(manifest_of(videos), tmp_path)
    _, told = prepare(manifest_of(videos), tmp_path)
    assert told.total == 0


def test_a_subset_finds_its_samples_prepared(videos: Path, tmp_path: Path) -> None:
    whole = manifest_of(videos)
    prepare(whole, tmp_path)
    _, told = prepare(Manifest(whole.table.iloc[1:], whole.roots), tmp_path)
    assert told.total == 0


def test_a_superset_prepares_only_what_is_new(videos: Path, tmp_path: Path) -> None:
    whole = manifest_of(videos)
    prepare(Manifest(whole.table.iloc[1:], whole.roots), tmp_path)
    _, told = prepare(whole, tmp_path)
    assert told.total == 1


def test_a_changed_setting_makes_a_store_beside_the_old_one(videos: Path, tmp_path: Path) -> None:
    first, _ = prepare(manifest_of(videos), tmp_path)
    second, told = prepare(manifest_of(videos), tmp_path, size=48)
    assert first.key != second.key
    assert told.total == 3


def test_a_store_from_before_landmarks_were_kept_is_used_as_it_is(videos: Path, tmp_path: Path) -> None:
    store, _ = prepare(manifest_of(videos), tmp_path)
    for journal in store.path.glob("*.jsonl"):
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        journal.write_text("".join(json.dumps({k: v for k, v in x.items() if k != "landmarks"}) + "\n" for x in lines))
    again, told = prepare(manifest_of(videos), tmp_path)
    assert told.total == 0
    assert (again.key, again.landmarks("set/a")) == (store.key, None)


def test_stores_of_before_keep_their_names(videos: Path, tmp_path: Path) -> None:
    store, _ = prepare(manifest_of(videos), tmp_path)
    named = json.loads((store.path / "store.json").read_text())["settings"]
    assert not {"box", "view"} & named.keys()


@pytest.mark.parametrize(
    ("changes", "temporal", "cut"),
    [
        ({"box": "clip", "faces": "mtcnn"}, True, ("clip", "face")),
        ({"box": "clip", "faces": "mtcnn"}, False, ("frame", "face")),
        ({"box": "clip", "faces": "center"}, True, ("frame", "face")),
        ({"box": "clip", "faces": "mtcnn", "view": "patches"}, True, ("frame", "patches")),
    ],
)
def test_what_changes_no_pixel_names_no_other_store(
    changes: dict[str, object], temporal: bool, cut: tuple[str, str], tmp_path: Path
) -> None:
    settings = cut_settings(options(**changes), temporal, tmp_path)
    assert (settings.box, settings.view) == cut


@pytest.mark.parametrize("key", [{"box": "clip"}, {"view": "patches"}], ids=["box", "view"])
def test_faces_that_are_turned_upright_have_boxes_of_their_own(key: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="turned upright"):
        cut_settings(options(faces="mtcnn", align=True, **key), True, tmp_path)


def test_pictures_that_are_all_smaller_than_a_patch_stop_the_command(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too_small 96x96 has no room for a patch of 128 pixels"):
        prepare(manifest_of(videos), tmp_path, view="patches", size=128)


def test_runs_and_spread_frames_are_two_stores(videos: Path, tmp_path: Path) -> None:
    spread = prepare_crops(manifest_of(videos), options(), False, tmp_path, workers=0)
    runs = prepare_crops(manifest_of(videos), options(), True, tmp_path, workers=0)
    assert spread.key != runs.key


def test_a_changed_file_is_prepared_anew(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    write_video(root / "a.mp4", 8)
    prepare(manifest_of(root), tmp_path / "cache")
    write_video(root / "a.mp4", 16)
    store, told = prepare(manifest_of(root), tmp_path / "cache")
    assert told.total == 1
    assert store.samples.loc["set/a", "video_frames"] == 16


def test_a_touched_file_with_the_same_content_is_not(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    write_video(root / "a.mp4", 8)
    prepare(manifest_of(root), tmp_path / "cache")
    os.utime(root / "a.mp4", (1, 1))
    assert prepare(manifest_of(root), tmp_path / "cache")[1].total == 0


def test_images_are_clips_of_one_frame(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    cv2.imwrite(str(root / "a.png"), np.full((50, 80, 3), 90, np.uint8))
    store, _ = prepare(manifest_of(root), tmp_path / "cache")
    assert store.clip("set/a", 0)[0].shape == (1, 32, 32, 3)


def test_faces_none_takes_the_whole_frame(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:16, :, 2] = 200  # red above black, in OpenCV's order
    cv2.imwrite(str(root / "a.png"), picture)
    store, _ = prepare(manifest_of(root), tmp_path / "cache", faces="none")
    assert np.array_equal(store.clip("set/a", 0)[0][0], picture[:, :, ::-1])


def test_failures_are_listed_with_their_reasons(videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    write_video(root / "a.mp4", 8)
    (root / "b.mp4").write_bytes(b"")
    (root / "c.mp4").write_bytes(b"no video" * 50)
    store, _ = prepare(manifest_of(root), tmp_path / "cache", max_failed=1.0)
    assert store.samples["status"].to_dict() == {"set/a": "ok", "set/b": "empty", "set/c": "undecodable"}


def test_too_many_failures_stop_and_name_the_first(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    write_video(root / "a.mp4", 8)
    (root / "b.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 2 samples cannot be used.*set/b: empty"):
        prepare(manifest_of(root), tmp_path / "cache", max_failed=0.4)


def test_a_video_without_a_face_is_a_listed_failure(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    write_video(root / "a.mp4", 6)
    store, _ = prepare(manifest_of(root), tmp_path / "cache", faces="mtcnn", max_failed=1.0)
    assert store.samples.loc["set/a", "status"] == "no_face"


def test_worker_processes_store_the_same_pixels(videos: Path, tmp_path: Path) -> None:
    alone, _ = prepare(manifest_of(videos), tmp_path / "alone")
    told = Told()
    together = prepare_crops(manifest_of(videos), options(), False, tmp_path / "two", workers=2, progress=told)
    assert told.done == 3
    assert all(
        np.array_equal(alone.clip(key, clip)[0], together.clip(key, clip)[0])
        for key in alone.records
        for clip in range(2)
    )


def test_shards_together_hold_every_sample(videos: Path, tmp_path: Path) -> None:
    manifest = manifest_of(videos)
    for i in range(2):
        prepare_crops(manifest, options(), False, tmp_path, workers=0, shard=(i, 2))
    assert len(prepare_crops(manifest, options(), False, tmp_path, workers=0).records) == 3


def test_a_disk_too_small_is_refused_before_anything_is_done(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.data.prepare._SPARE", 1 << 62)
    with pytest.raises(DataError, match=r"need 0\.00 GB in .*, and \d+\.\d\d GB are to stay free; .* GB are free"):
        prepare(manifest_of(videos), tmp_path)
    assert not list(tmp_path.rglob("part-*"))


def test_a_second_process_waits_and_says_so(videos: Path, tmp_path: Path) -> None:
    store, _ = prepare(manifest_of(videos), tmp_path)
    lock = FileLock(store.path / "shard-0-of-1.lock", thread_local=False)
    lock.acquire()
    heard: list[str] = []

    def hear(text: str) -> None:
        heard.append(text)
        lock.release()

    waiting = threading.Thread(
        target=lambda: prepare_crops(manifest_of(videos), options(), False, tmp_path, workers=0, say=hear),
        daemon=True,
    )
    waiting.start()
    waiting.join(timeout=20)
    assert not waiting.is_alive()
    assert "waiting for another process" in heard[0]


def test_a_file_that_breaks_the_cutting_is_listed_and_the_others_go_on(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepfake.data import prepare_worker

    real = prepare_worker.cut_sample

    def fragile(file: Path, *rest: object) -> object:
        if file.stem == "b":
            raise ValueError("could not broadcast")
        return real(file, *rest)

    monkeypatch.setattr(prepare_worker, "cut_sample", fragile)
    store, _ = prepare(manifest_of(videos), tmp_path, max_failed=0.5)
    assert store.samples["status"].to_dict() == {"set/a": "ok", "set/b": "crashed", "set/c": "ok"}


def test_what_broke_the_cutting_is_tried_again_the_next_time(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> object:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("deepfake.data.prepare_worker.cut_sample", broken)
        assert set(prepare(manifest_of(videos), tmp_path, max_failed=1.0)[0].samples["status"]) == {"unreadable"}
    assert set(prepare(manifest_of(videos), tmp_path)[0].samples["status"]) == {"ok"}


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
