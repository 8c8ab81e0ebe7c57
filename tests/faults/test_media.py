"""Damaged media of every kind through prepare and predict: every file has a status, in bounded time and memory."""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfake.data.crop_records import read_records
from deepfake.data.options import DatasetOptions
from deepfake.data.prepare import cut_settings
from deepfake.data.prepare_worker import Job
from deepfake.data.worker_pool import prepare_jobs
from tests import PROJECT
from tests.data.making import numbered, write_video
from tests.end_to_end.conftest import Command, command, kept, outputs

pytestmark = pytest.mark.slow

__all__ = ["command", "kept", "outputs"]  # fixtures

#: What a file can be told to be; one that broke its decoder in another way than these has found a fault of ours.
KNOWN = {"ok", "missing", "not_a_file", "empty", "undecodable", "no_video", "not_an_image", "too_large", "too_short"}
GIB = 1 << 30


def _mutants(data: bytes, count: int, random_: random.Random) -> Iterator[tuple[str, bytes]]:
    """Cut at every kilobyte; then bits flipped at the head and everywhere, stretches zeroed, doubled and set."""
    for end in range(1024, len(data), 1024):
        yield f"cut{end}", data[:end]
    for number in range(count):
        changed = bytearray(data)
        within = random_.choice([64, 1024, len(data)])
        for _ in range(random_.choice([1, 4, 30, 300])):
            changed[random_.randrange(min(within, len(data)))] ^= 1 << random_.randrange(8)
        yield f"flip{number}", bytes(changed)
        start = random_.randrange(len(data))
        changed = bytearray(data)
        changed[start : start + random_.randrange(1, 4096)] = random_.choice(
            [b"", b"\0" * 32, b"\xff" * 64, data[:4096]]
        )
        yield f"stretch{number}", bytes(changed)


def _counts_said_by_the_index(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Tables of an mp4 that say how many entries they have, and sizes of frames, made absurd."""
    for atom, offset in (
        (b"stsz", 8),
        (b"stsz", 12),
        (b"stts", 8),
        (b"stsc", 8),
        (b"stco", 8),
        (b"ctts", 8),
        (b"stsc", 16),
    ):
        place = data.find(atom)
        for value in (0, 1 << 26, (1 << 31) - 1, (1 << 32) - 1):
            changed = bytearray(data)
            changed[place + 4 + offset - 4 : place + 4 + offset] = struct.pack(">I", value)
            yield f"{atom.decode()}{offset}-{value}", bytes(changed)
    for width, height in ((0, 0), (65535, 65535), (1, 65535)):
        changed = bytearray(data)
        place = data.find(b"avc1") + 4 + 24
        changed[place : place + 4] = struct.pack(">HH", width, height)
        yield f"size{width}x{height}", bytes(changed)


def make_corpus(folder: Path) -> dict[Path, str]:
    """Files by path, each with its kind; the same at every call."""
    folder.mkdir()
    random_ = random.Random(0)
    made = [(".mp4", "video", write_video(folder / "good.mp4", 30).read_bytes())]
    made.append((".mkv", "video", write_video(folder / "good.mkv", 20).read_bytes()))
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".tiff"):
        data = cv2.imencode(suffix, numbered(3))[1].tobytes()
        (folder / f"good{suffix}").write_bytes(data)
        made.append((suffix, "image", data))
    files = {folder / f"good{suffix}": kind for suffix, kind, _ in made}

    def add(name: str, kind: str, data: bytes) -> None:
        (folder / name).write_bytes(data)
        files[folder / name] = kind

    for suffix, kind, data in made:
        for name, changed in _mutants(data, 40 if kind == "video" else 12, random_):
            add(f"{name}{suffix}", kind, changed)
        add(f"empty{suffix}", kind, b"")
        add(f"text{suffix}", kind, b"hello\n" * 50)
        add(f"noise{suffix}", kind, random_.randbytes(20_000))
        add(f"picture-or-video{suffix}", kind, made[2 if kind == "video" else 0][2])
    for name, changed in _counts_said_by_the_index(made[0][2]):
        add(f"{name}.mp4", "video", changed)
    for suffix, data in (("png", made[3][2]), ("bmp", made[5][2])):
        for place in (16, 18, 20):
            add(f"huge{place}.{suffix}", "image", data[:place] + b"\x7f\xff\xff\xff" + data[place + 4 :])
    for name, target in (("loop", "loop"), ("zero", "/dev/zero"), ("gone", "nowhere")):
        for suffix, kind in ((".mp4", "video"), (".png", "image")):
            (folder / f"{name}{suffix}").symlink_to(target if target != "loop" else f"loop{suffix}")
            files[folder / f"{name}{suffix}"] = kind
    os.mkfifo(folder / "pipe.mp4")
    files[folder / "pipe.mp4"] = "video"
    return files


def _children_peak() -> int:
    """The most memory that an ended child of this process had, in bytes."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


_PREPARE = """
import json, sys
from pathlib import Path
from tests.faults.test_media import prepare
print(json.dumps(prepare(Path(sys.argv[1]), Path(sys.argv[2]))))
"""


def prepare(corpus: Path, store: Path) -> dict[str, object]:
    """The statuses of a corpus and the memory that its workers had, to be asked for in a process of its own."""
    store.mkdir()
    files = make_corpus(corpus)
    options = DatasetOptions(faces="center", size=32, frames=4, clips=2)
    jobs = [Job(path.name, path, kind, seconds=25.0) for path, kind in files.items()]
    prepare_jobs(jobs, store, cut_settings(options, False, store), 2, None)
    records = read_records(store)
    return {
        "asked": len(jobs),
        "peak": _children_peak(),
        "records": {k: [r["status"], r.get("reason", "")] for k, r in records.items()},
    }


def test_preparing_damaged_media(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PREPARE, str(tmp_path / "corpus"), str(tmp_path / "store")],
        cwd=PROJECT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["records"]) == told["asked"] > 400
    strange = {name: said for name, said in told["records"].items() if said[0] not in KNOWN}
    assert not strange
    found = Counter(status for status, _ in told["records"].values())
    assert min(found[status] for status in ("ok", "undecodable", "too_large", "not_a_file", "missing", "empty")) > 0
    assert all(told["records"][f"good{suffix}"][0] == "ok" for suffix in (".mp4", ".mkv", ".jpg", ".png", ".webp"))
    assert told["peak"] < GIB + 300 * (1 << 20)  # an idle worker has less than 300 MiB
    print(f"media: {told['asked']} files, each with a status; a worker had at most {told['peak'] >> 20} MiB")


def test_predicting_damaged_media(kept: Path, command: Command, tmp_path: Path) -> None:
    files = make_corpus(tmp_path / "corpus")
    done = command("-m", "deepfake.cli", "predict", str(kept), "--json", str(tmp_path / "corpus"), "dataset.workers=2")
    assert done.returncode == 3, done.stderr[-2000:]
    results = json.loads(done.stdout)["results"]
    assert {Path(one["path"]).name for one in results} == {path.name for path in files}
    assert len(results) == len(files)
    assert all((one["class"] is None) == (one["reason"] is not None) for one in results)
    reasons = {one["path"]: one["reason"] for one in results if one["reason"]}
    assert not {path: said for path, said in reasons.items() if said["code"] not in KNOWN}
    assert all(said["detail"] for said in reasons.values())
    good = [one for one in results if Path(one["path"]).name.startswith("good")]
    assert len(good) == 7
    assert all(np.isfinite(one["score"]) for one in good)
