"""What the audit finds in sets made to be wrong, how often sound ones alarm it, and how long it takes.

    python -m benchmarks.audit [draws]

Needs no data, no model and no network; takes about a quarter of an hour with 100 draws of each size, one thread. Sets
are drawn as tables; the one that is timed has 10,000 crops on disk. A false alarm is any warning that something tells
the class.
"""

from __future__ import annotations

import os

# Read when NumPy starts its threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import base64
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.making import clip
from benchmarks.measure import machine, report, row
from deepfake.data.appearance import colours
from deepfake.data.audit import Audit, audit_dataset
from deepfake.data.crop_records import StoreWriter, read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import FRAME, Crops, dhash, thumbnail
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.media import MediaInfo
from deepfake.runs.build import audit

DRAWS, SIZES, SAMPLES, PLANTED_IN = 100, (24, 40, 67, 120, 300, 1000), 10_000, 60
_SIDE, _CROP = 32, 224  # of the pictures in tables, and of the crops on disk
_ALARM = re.compile(r"tells? the class|filled in")

Set = tuple[Manifest, pd.DataFrame, np.ndarray]


def sound(count: int, seed: int) -> Set:
    """A set whose files and pictures have nothing to do with the class: manifest, facts of samples, pictures [n]."""
    rng = np.random.default_rng([seed, count])
    pictures = np.kron(rng.integers(0, 200, (count, 4, 4, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    rows = [
        {
            "sample_id": f"s/{i:05d}", "path": f"{i}.mp4", "kind": "video", "label": i % 2, "dataset": "s",
            "method": "made" if i % 2 else "real", "bytes": int(rng.lognormal(14, 0.5)),
            "split": ("train", "train", "train", "val", "test")[i // 2 % 5],
        }
        for i in range(count)
    ]  # fmt: skip
    facts = pd.DataFrame(
        {
            "status": np.where(rng.random(count) < 0.03, "no_face", "ok"), "frames": 8,
            "filled": rng.binomial(8, 0.05, count), "width": rng.choice([1280, 1920], count),
            "height": rng.choice([720, 1080], count), "fps": rng.choice([25.0, 30.0], count),
            "video_frames": rng.integers(250, 350, count), "duration": rng.normal(10, 1, count),
            "bitrate": rng.lognormal(14, 0.5, count), "codec": rng.choice(["h264", "hevc"], count),
            "pixel_format": rng.choice(["yuv420p", "yuv422p"], count, p=(0.9, 0.1)), "quality": 0, "sha256": "",
            "dhashes": [[int(value)] for value in rng.integers(0, 2**63, count, dtype=np.uint64)],
        },
        index=pd.Index([one["sample_id"] for one in rows], name="sample_id", dtype=object),
    )  # fmt: skip
    return Manifest(make_rows(rows), {"s": Path("/nowhere")}), facts, pictures


def audited(made: Set) -> Audit:
    """What the audit says of a set."""
    manifest, facts, pictures = made
    looks = [base64.b64encode(thumbnail(picture).tobytes()).decode() for picture in pictures]
    seen = pd.Series([colours(picture) for picture in pictures], facts.index, dtype=object)
    return audit_dataset(manifest, facts.assign(thumbnail=looks, colours=seen))


def _column(name: str, change: Callable[[pd.Series], pd.Series]) -> Callable[[Set, np.ndarray], None]:
    def plant(made: Set, fake: np.ndarray) -> None:
        facts = made[1]
        facts[name] = facts[name].where(~fake, change(facts[name]))

    return plant


def _bytes(made: Set, fake: np.ndarray) -> None:
    table = made[0].table
    table["bytes"] = table["bytes"].where(~fake, table["bytes"] // 3)


def _framing(made: Set, fake: np.ndarray) -> None:
    made[2][fake, 8:24, 8:24] = np.minimum(made[2][fake, 8:24, 8:24].astype(int) + 60, 255)


def _colour(made: Set, fake: np.ndarray) -> None:
    made[2][fake] = np.clip(made[2][fake] * np.array([1.2, 0.9, 0.8]), 0, 255)


#: What is planted, by the word by which a warning names it.
PLANTS: dict[str, Callable[[Set, np.ndarray], None]] = {
    "width": _column("width", lambda column: column * 0 + 640),
    "height": _column("height", lambda column: column * 0 + 480),
    "video_frames": _column("video_frames", lambda column: column + 90),
    "duration": _column("duration", lambda column: column + 3),
    "fps": _column("fps", lambda column: column * 0 + 24.0),
    "bitrate": _column("bitrate", lambda column: column * 3),
    "bytes": _bytes,
    "codec": _column("codec", lambda column: column.map(lambda name: "vp9")),
    "pixel_format": _column("pixel_format", lambda column: column.map(lambda name: "yuv444p")),
    "quality": _column("quality", lambda column: column + 75),
    "framed": _framing,
    "colours": _colour,
}


def is_found(name: str, seed: int) -> bool:
    """Whether a plant in a small set is warned of by its name."""
    made = sound(PLANTED_IN, seed)
    PLANTS[name](made, (made[0].table["label"] == 1).to_numpy())
    return any(_ALARM.search(text) and name in text for text in audited(made).warnings)


def false_alarms(count: int, draws: int) -> int:
    """How many of so many sound sets of a size raise an alarm."""
    return sum(any(map(_ALARM.search, audited(sound(count, seed)).warnings)) for seed in range(draws))


def timed(folder: Path) -> dict[str, float]:
    """Seconds of the audit of many samples, their crops read and simple models fitted, the probe left out."""
    manifest, facts, _ = sound(SAMPLES, 0)
    writer = StoreWriter(folder)
    for number, name in enumerate(facts.index):
        picture = clip(number, number % 2 == 1, 1, _CROP)
        known = facts.loc[name]
        info = MediaInfo(
            int(known["width"]), int(known["height"]), int(known["video_frames"]), float(known["fps"]),
            float(known["duration"]), str(known["codec"]), int(known["bitrate"]), str(known["pixel_format"]), 0,
        )  # fmt: skip
        looks = thumbnail(picture[0])
        crops = Crops(picture[None], np.ones(1, int), np.zeros((1, 1), FRAME), info, (dhash(picture[0]),), looks)
        told = {key: known[key] if isinstance(known[key], str) else float(known[key]) for key in facts.columns[3:11]}
        record = {"sample_id": name, "status": "ok", "clips": 1, "frames": 1, "filled": 0, "sha256": "", **told}
        record |= {"dhashes": list(crops.dhashes), "thumbnail": base64.b64encode(looks.tobytes()).decode()}
        writer.append(record, crops)
    writer.close()
    store = CropStore(folder, read_records(folder))
    began, worked = time.perf_counter(), time.process_time()
    audit(manifest, store)
    return {"wall": time.perf_counter() - began, "cpu": time.process_time() - worked}


def main() -> None:
    """Measure, print, keep."""
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else DRAWS
    found = [name for name in PLANTS if is_found(name, 1)]
    missed = ", ".join(name for name in PLANTS if name not in found)
    what = f"planted shortcuts found in {PLANTED_IN} samples, of {len(PLANTS)}"
    rows = [row(what, len(found), str(len(PLANTS)), missed=missed or "none")]
    alarms = {}
    for count in SIZES:
        alarms[count] = false_alarms(count, draws)
        print(f"{count} samples: {alarms[count]} alarms", flush=True)
    sizes = {f"of_{count}": found for count, found in alarms.items()}
    what = f"sound sets that raise an alarm, of {draws}, at the size of {len(SIZES)} where most do"
    rows.append(row(what, max(alarms.values()), "<= 1", **sizes))
    with tempfile.TemporaryDirectory() as folder:
        seconds = timed(Path(folder))
    rows.append(
        row(f"CPU seconds for the audit of {SAMPLES:,} samples, without the probe", seconds["cpu"], "<= 60", **seconds)
    )
    report("audit", f"{draws} draws of each size", rows, machine("numpy", "scikit-learn"))


if __name__ == "__main__":
    main()
