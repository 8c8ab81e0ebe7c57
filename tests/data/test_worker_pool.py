"""Worker processes that die, cannot start, or find the disk full."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from deepfake.data import worker_pool
from deepfake.data.crop_records import read_records
from deepfake.data.cropping import CutSettings
from deepfake.data.frame_sampling import ClipPlan
from deepfake.data.prepare_worker import Job
from deepfake.data.worker_pool import run_jobs
from deepfake.errors import DataError

SETTINGS = CutSettings(ClipPlan(False, 1, 2), "center", None, 0.0, 16, False)

# Answers as a worker does, until a sample's name says otherwise.
_FAKE = """
import json, os, sys
sys.stdin.readline()
print("{}", flush=True)
for line in sys.stdin:
    name = json.loads(line)["sample_id"]
    if name == "deadly" or name == "flaky" and not os.path.exists(MARK):
        open(MARK, "w").close()
        os._exit(11)
    if name == "endless":
        while True:
            sys.stdin.readline()
    answer = {"errno": 28, "error": "No space left on device"} if name == "full" else {"record": {"sample_id": name}}
    print(json.dumps(answer), flush=True)
"""


def _run(folder: Path, names: list[str], workers: int = 1) -> list[dict]:
    code = _FAKE.replace("MARK", repr(str(folder / "mark")))
    jobs = [Job(name, folder / name, "video", seconds=0.1 if name == "endless" else 60) for name in names]
    return list(run_jobs(jobs, folder, SETTINGS, workers, (sys.executable, "-c", code)))


def test_every_sample_is_answered(tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(20)]
    assert sorted(record["sample_id"] for record in _run(tmp_path, names, workers=3)) == sorted(names)


def test_a_file_that_ends_its_process_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    records = {record["sample_id"]: record for record in _run(tmp_path, ["a", "deadly", "b"])}
    assert records["deadly"]["status"] == "crashed"
    assert set(records) == {"a", "deadly", "b"}


def test_it_stays_listed(tmp_path: Path) -> None:
    _run(tmp_path, ["deadly"])
    assert read_records(tmp_path)["deadly"]["status"] == "crashed"


def test_a_process_that_dies_once_is_replaced(tmp_path: Path) -> None:
    assert [record.get("status", "ok") for record in _run(tmp_path, ["a", "flaky", "b"])] == ["ok"] * 3


def test_a_full_disk_stops_everything(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        _run(tmp_path, ["a", "full", "b"])


def test_workers_that_cannot_start_are_an_error(tmp_path: Path) -> None:
    jobs = [Job("a", tmp_path / "a", "video")]
    with pytest.raises(DataError, match="before its first sample"):
        list(run_jobs(jobs, tmp_path, SETTINGS, 1, (sys.executable, "-c", "raise SystemExit(3)")))


def test_a_file_without_end_is_listed_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "_GRACE", 0.0)
    (tmp_path / "endless").write_bytes(b"x")
    records = {record["sample_id"]: record for record in _run(tmp_path, ["a", "endless", "b"])}
    assert set(records) == {"a", "endless", "b"}
    assert (records["endless"]["status"], records["endless"]["bytes"]) == ("timeout", 1)
    assert read_records(tmp_path)["endless"]["status"] == "timeout"


def test_a_worker_process_lets_no_file_have_all_memory(tmp_path: Path) -> None:
    # 20,000 pixels a side, in a format that is never decoded, and in one whose header is read first.
    (tmp_path / "other.png").write_bytes(b"P6\n20000 20000\n255\n" + b"x" * 100)
    side = (20_000).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + side + side + b"\x08\x02\0\0\0" + b"x" * 100
    )
    (tmp_path / "store").mkdir()
    jobs = [Job(name, tmp_path / f"{name}.png", "image") for name in ("other", "bomb")]
    records = {record["sample_id"]: record["status"] for record in run_jobs(jobs, tmp_path / "store", SETTINGS, 1)}
    assert records == {"other": "not_an_image", "bomb": "too_large"}


def test_an_interruption_before_a_thread_began_is_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker_pool.threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, ["a"])
