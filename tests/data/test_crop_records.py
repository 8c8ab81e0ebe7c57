"""What a store survives: stops, torn lines, full disks."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from deepfake.data.crop_records import StoreWriter, pack_landmarks, read_landmarks, read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import FRAME, Crops
from deepfake.data.media import MediaInfo

INFO = MediaInfo(8, 8, 3, 25.0, 0.12, "h264", 1000, "yuv420p", 0)


def crops(value: int) -> Crops:
    return Crops(
        np.full((2, 3, 8, 8, 3), value, np.uint8),
        np.array([3, 2]),
        np.zeros((2, 3), FRAME),
        INFO,
        (1, 2),
        np.zeros((16, 16), np.uint8),
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    writer = StoreWriter(tmp_path)
    for i in range(3):
        writer.append({"sample_id": f"s{i}", "status": "ok", "clips": 2}, crops(i))
    writer.close()
    return tmp_path


def test_what_was_written_is_read(written: Path) -> None:
    store = CropStore(written, read_records(written))
    assert [int(store.clip(f"s{i}", 1)[0].max()) for i in range(3)] == [0, 1, 2]


def test_the_mask_tells_fillers(written: Path) -> None:
    store = CropStore(written, read_records(written))
    assert store.clip("s0", 1)[1].tolist() == [True, True, False]


def test_the_frame_table_leaves_fillers_out(written: Path) -> None:
    assert len(CropStore(written, read_records(written)).frames) == 3 * 5


def test_a_torn_last_line_is_no_record(written: Path) -> None:
    journal = next(written.glob("*.jsonl"))
    journal.write_bytes(journal.read_bytes()[:-9])
    assert list(read_records(written)) == ["s0", "s1"]


@pytest.mark.parametrize("suffix", [".u8", ".frames"])
def test_a_record_past_the_end_of_its_data_is_no_record(suffix: str, written: Path) -> None:
    data = next(written.glob("*" + suffix))
    data.write_bytes(data.read_bytes()[:-1])
    assert list(read_records(written)) == ["s0", "s1"]


def test_the_newest_record_of_a_sample_counts(written: Path) -> None:
    writer = StoreWriter(written)
    writer.append({"sample_id": "s1", "status": "ok", "clips": 2}, crops(9))
    writer.close()
    assert int(CropStore(written, read_records(written)).clip("s1", 0)[0].max()) == 9


def test_a_write_that_fails_leaves_the_part_as_it_was(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = StoreWriter(written)
    writer.append({"sample_id": "before", "status": "ok", "clips": 2}, crops(5))
    real = json.dumps

    def full(*args: object, **kwargs: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deepfake.data.crop_records.json.dumps", full)
    with pytest.raises(OSError, match="No space left"):
        writer.append({"sample_id": "lost", "status": "ok", "clips": 2}, crops(6))
    monkeypatch.setattr("deepfake.data.crop_records.json.dumps", real)
    writer.append({"sample_id": "after", "status": "ok", "clips": 2}, crops(7))
    writer.close()
    store = CropStore(written, read_records(written))
    assert "lost" not in store.records
    assert int(store.clip("after", 1)[0].max()) == 7


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to stand for a full disk")
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path)
    writer._files[".u8"] = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    with pytest.raises(OSError, match="No space left"):
        writer.append({"sample_id": "a", "status": "ok", "clips": 2}, crops(1))
    writer.close()
    assert read_records(tmp_path) == {}


def test_landmarks_are_kept_to_a_tenth_of_a_pixel(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(-9, 300, (2, 3, 5, 2)).astype(np.float32)
    writer = StoreWriter(tmp_path)
    writer.append({"sample_id": "s", "status": "ok", "clips": 2, "landmarks": pack_landmarks(points)}, crops(0))
    writer.close()
    found = CropStore(tmp_path, read_records(tmp_path)).landmarks("s")
    assert found is not None
    assert found.dtype == np.float32
    assert np.abs(found - points).max() <= 0.051


@pytest.mark.parametrize("older", [{}, {"landmarks": None}], ids=["older", "no detector"])
def test_a_record_without_landmarks_has_none(older: dict[str, None]) -> None:
    assert read_landmarks({"shape": [2, 3, 8, 8, 3], **older}) is None
