"""Samples appended to files, and read back from them. Knows no video, no face and no clip plan.

Each writer has a part of its own: ``part-<id>.u8`` holds raw pixels, ``part-<id>.frames`` a record for each frame,
and ``part-<id>.jsonl`` one line for each sample, with its landmarks, written after what it points to. Nothing is ever
rewritten, so stopping at any moment loses at most the sample in work; a line that is torn or points past the end is no
line.
"""

from __future__ import annotations

import base64
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from deepfake.data.cropping import FRAME, Crops
from deepfake.data.faces.base import Landmarks
from deepfake.data.media import Pixels

Record = dict[str, Any]


class StoreWriter:
    """Appends samples to a part of its own; the part appears with the first of them."""

    def __init__(self, folder: Path) -> None:
        self._stem = folder / f"part-{uuid.uuid4().hex}"
        self._files: dict[str, IO[bytes]] = {}

    def append(self, record: Record, crops: Crops | None) -> Record:
        """Write one sample; a failed one has no crops.

        Returns:
            The record with where its crops lie.

        Raises:
            OSError: The disk is full, for one; the part is left as it was before.
        """
        if crops is not None:
            record = {
                **record,
                "part": self._stem.name,
                "offset": self._append(".u8", crops.pixels.reshape(-1).data),
                "shape": list(crops.pixels.shape),
                "lengths": crops.lengths.tolist(),
                "first": self._append(".frames", crops.frames.tobytes()) // FRAME.itemsize,
            }
        self._append(".jsonl", json.dumps(record, separators=(",", ":")).encode() + b"\n")
        return record

    def _append(self, suffix: str, data: bytes | memoryview) -> int:
        file = self._files.get(suffix)
        if file is None:
            file = self._files[suffix] = open(self._stem.with_suffix(suffix), "ab", buffering=0)  # noqa: SIM115
        start = file.tell()
        try:
            rest = memoryview(data)
            while rest.nbytes:
                rest = rest[file.write(rest) :]
        except BaseException:
            with suppress(OSError):  # what stopped the writing is worth telling, not this
                os.ftruncate(file.fileno(), start)
            file.seek(0, os.SEEK_END)
            raise
        return start

    def close(self) -> None:
        """Let go of the files; one nothing could be written to is not left behind."""
        for suffix, file in self._files.items():
            file.close()
            part = self._stem.with_suffix(suffix)
            with suppress(FileNotFoundError):  # whoever the store was made for has removed it
                if not part.stat().st_size:
                    part.unlink()
        self._files = {}


def read_records(folder: Path) -> dict[str, Record]:
    """Every sample's newest record, by sample id, as far as what it points to is there."""
    records: dict[str, Record] = {}
    journals = sorted(folder.glob("part-*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    for journal in journals:
        pixels, frames = (_size(journal.with_suffix(suffix)) for suffix in (".u8", ".frames"))
        for record in _lines(journal):
            if "part" in record:
                clips, length, *_ = shape = record["shape"]
                ends = (record["offset"] + math.prod(shape), (record["first"] + clips * length) * FRAME.itemsize)
                if ends[0] > pixels or ends[1] > frames:
                    continue
            records[record["sample_id"]] = record
    return records


def read_frames(folder: Path, record: Record) -> np.ndarray:
    """The frame records [clips, T] of one sample, fillers included."""
    clips, length = record["shape"][:2]
    with open(folder / f"{record['part']}.frames", "rb") as file:
        file.seek(record["first"] * FRAME.itemsize)
        return np.frombuffer(file.read(clips * length * FRAME.itemsize), FRAME).reshape(clips, length)


def read_pixels(folder: Path, record: Record) -> Pixels:
    """The crops uint8 [clips, T, S, S, 3] of one sample, fillers included, as a memory map."""
    file, shape = folder / f"{record['part']}.u8", tuple(record["shape"])
    return np.memmap(file, np.uint8, "r", record["offset"], shape)


def kept_frames(record: Record) -> np.ndarray:
    """Which of a sample's frames are no fillers, bool [clips, T]."""
    return np.arange(record["shape"][1]) < np.array(record["lengths"])[:, None]


def clip_faces(record: Record) -> list[int]:
    """Whose each clip of a sample is, 0 for the largest face."""
    return list(record.get("faces") or [0] * record["shape"][0])


_TENTHS = np.dtype("<i2")  # of a pixel, in which landmarks are kept


def pack_landmarks(landmarks: Landmarks) -> str:
    """Landmarks [clips, T, 5, 2] as a record holds them: to a tenth of a pixel, in 20 bytes a frame."""
    tenths = np.rint(landmarks * 10).clip(-32768, 32767).astype(_TENTHS)
    return base64.b64encode(tenths.tobytes()).decode()


def read_landmarks(record: Mapping[str, Any]) -> Landmarks | None:
    """The landmarks float32 [clips, T, 5, 2] of a sample, in its crops' pixels.

    Returns:
        None where no face was looked for, and where the record is older than landmarks are kept.
    """
    packed = record.get("landmarks")
    if packed is None:
        return None
    tenths = np.frombuffer(base64.b64decode(packed), _TENTHS).astype(np.float32)
    return (tenths / np.float32(10)).reshape(*record["shape"][:2], 5, 2)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _lines(journal: Path) -> Iterator[Record]:
    for line in journal.read_bytes().split(b"\n")[:-1]:  # what follows the last newline is torn
        try:
            yield json.loads(line)
        except ValueError:
            continue
