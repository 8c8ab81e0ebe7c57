"""One file after the other: what is never opened, what takes too long, what takes too much."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfake.data import prepare_worker
from deepfake.data.crop_records import read_records
from deepfake.data.cropping import CutSettings
from deepfake.data.frame_sampling import ClipPlan
from deepfake.data.media import Deadline, MediaError
from deepfake.data.prepare_worker import Job, Worker, stamp, time_limit
from tests.data.making import write_video

SETTINGS = CutSettings(ClipPlan(False, 1, 2), "center", None, 0.0, 16, False)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    (tmp_path / "store").mkdir()
    made = Worker(tmp_path / "store", SETTINGS)
    yield made
    made.close()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


# Opening any of these for reading waits, or never ends: with no check this test hangs.
NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "not_a_file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not_a_file"),
    "socket": (_socket, "not_a_file"),
    "folder": (Path.mkdir, "not_a_file"),
    "link to itself": (_loop, "missing"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "missing"),
}


@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file_is_never_opened(what: str, kind: str, worker: Worker, tmp_path: Path) -> None:
    make, status = NO_FILES[what]
    make(tmp_path / "x")
    record = worker(Job("x", tmp_path / "x", kind))
    assert (record["status"], record["bytes"], record["sha256"]) == (status, -1, "")
    assert record["reason"]


@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_file_that_takes_too_long_is_listed(kind: str, worker: Worker, tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 5)
    record = worker(Job("v", path, kind, seconds=-1.0))
    assert record["status"] == "timeout"
    assert "dataset.file_timeout" in record["reason"]


def test_decoding_minds_the_limit_between_packets(tmp_path: Path) -> None:
    from deepfake.data.video import read_video

    path = write_video(tmp_path / "v.mp4", 5)
    with pytest.raises(MediaError, match="timeout"):
        read_video(path, lambda n: [0], Deadline(-1.0))


def test_a_long_video_has_more_time_than_a_small_one(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 3_000_000)
    assert time_limit(Job("l", tmp_path / "large", "video", seconds=5)) == pytest.approx(8, abs=0.1)


def test_what_a_sparse_file_does_not_have_gives_no_time(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 36)
    assert time_limit(Job("s", tmp_path / "sparse", "video", seconds=5)) < 6
    assert stamp(tmp_path / "sparse", Deadline(0.0)) == {
        "bytes": 1 << 36,
        "mtime": os.stat(tmp_path / "sparse").st_mtime_ns,
        "sha256": "",
    }


def test_memory_that_runs_out_is_told_of_the_file(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(prepare_worker, "cut_sample", starve)
    assert worker(Job("v", write_video(tmp_path / "v.mp4", 2), "video"))["status"] == "too_large"


def test_what_comes_next_can_go_to_another_folder_while_the_last_one_is_removed(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "x.mp4", 5)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "other").mkdir()
    worker.move(tmp_path / "other")
    assert worker(Job("x", tmp_path / "x.mp4", "video"))["status"] == "ok"
    assert set(read_records(tmp_path / "other")) == {"x"}
    shutil.rmtree(tmp_path / "other")
    # Somebody removes it just after it was seen.
    monkeypatch.setattr(Path, "exists", lambda path: True)
    (tmp_path / "third").mkdir()
    worker.move(tmp_path / "third")
    assert worker(Job("y", tmp_path / "x.mp4", "video"))["status"] == "ok"
    assert set(read_records(tmp_path / "third")) == {"y"}


@pytest.mark.parametrize(
    ("limit", "status"), [((100, None), "too_large"), ((None, 0.1), "too_long"), ((10**6, 9.0), "ok")]
)
@pytest.mark.parametrize("kind", ["video", "image"])
def test_what_a_header_says_is_held_to_limits(
    worker: Worker, tmp_path: Path, kind: str, limit: tuple[int | None, float | None], status: str
) -> None:
    if kind == "video":
        file = write_video(tmp_path / "x.mp4", 25)
    else:
        file = tmp_path / "x.png"
        cv2.imwrite(str(file), np.zeros((96, 160, 3), np.uint8))
        status = "ok" if status == "too_long" else status
    record = worker(Job("x", file, kind, most_pixels=limit[0], most_duration=limit[1]))
    assert record["status"] == status
