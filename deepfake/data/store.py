"""Prepared crops, read: one memory map and a table of what became of each sample. Knows not how they came about."""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepfake.data.cut import FRAME
from deepfake.data.media import Pixels
from deepfake.data.part import Record, read_frames

#: The columns of :attr:`CropStore.samples`, with what a sample that has none holds.
SAMPLE_COLUMNS: dict[str, Any] = {
    "status": "ok",
    "reason": "",
    "clips": 0,
    "frames": 0,
    "filled": 0,
    "width": 0,
    "height": 0,
    "video_frames": 0,
    "fps": 0.0,
    "duration": 0.0,
    "codec": "",
    "bitrate": 0,
    "pixel_format": "",
    "rotation": 0,
    "quality": 0,
    "bytes": -1,
    "sha256": "",
    "dhashes": (),
    "thumbnail": "",
}


class CropStore:
    """Prepared crops of a manifest's samples.

    Args:
        folder: Where the parts lie.
        records: The records of the samples of interest, as :func:`read_records` gives them.

    Attributes:
        path: The folder; its name is the :attr:`key`.
        records: By sample id.
    """

    def __init__(self, folder: Path, records: dict[str, Record]) -> None:
        self.path = folder
        self.records = records
        self._maps: dict[str, Pixels] = {}

    @property
    def key(self) -> str:
        """The digest of what went in and how."""
        return self.path.name

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row per sample: status (``ok`` or why not), reason, clips, frames kept, filled, media facts."""
        columns = {
            name: [record.get(name, default) for record in self.records.values()]
            for name, default in SAMPLE_COLUMNS.items()
        }
        return pd.DataFrame(columns, index=pd.Index(self.records, name="sample_id", dtype=object))

    @cached_property
    def contents(self) -> dict[str, str]:
        """A digest for each sample that could be used: of its file, and of which frames were cut and where."""
        return {
            sample_id: hashlib.sha256(
                f"{self.key} {record['sha256']} {record['shape']} {record['lengths']}".encode()
                + self.frame_records(sample_id).tobytes()
            ).hexdigest()
            for sample_id, record in self.records.items()
            if record["status"] == "ok"
        }

    @cached_property
    def frames(self) -> pd.DataFrame:
        """One row per frame kept: sample_id, clip, position, then the fields of :data:`deepfake.data.cut.FRAME`."""
        tables = [self.frame_records(sample_id) for sample_id, r in self.records.items() if r["status"] == "ok"]
        owners = [sample_id for sample_id, r in self.records.items() if r["status"] == "ok"]
        joined = np.concatenate([t.reshape(-1) for t in tables]) if tables else np.zeros(0, FRAME)
        table = pd.DataFrame({name: joined[name] for name in FRAME.names or ()})
        table.insert(0, "sample_id", np.repeat(np.array(owners, object), [t.size for t in tables]))
        places = [np.indices(t.shape).reshape(2, -1) for t in tables]
        clip, position = np.concatenate(places, 1) if places else np.zeros((2, 0), int)
        table.insert(1, "clip", clip)
        table.insert(2, "position", position)
        kept: np.ndarray | list[bool] = (
            np.concatenate([self._kept(self.records[owner]).reshape(-1) for owner in owners]) if owners else []
        )
        return table[np.asarray(kept, bool)].reset_index(drop=True)

    def frame_records(self, sample_id: str) -> np.ndarray:
        """The frame records [clips, T] of one sample, fillers included."""
        return read_frames(self.path, self.records[sample_id])

    def pixels(self, part: str) -> Pixels:
        """The memory map of a whole part, uint8 [bytes], opened once."""
        if part not in self._maps:
            self._maps[part] = np.memmap(self.path / f"{part}.u8", np.uint8, mode="r")
        return self._maps[part]

    def clip(self, sample_id: str, clip: int) -> tuple[Pixels, np.ndarray]:
        """One clip uint8 [T, S, S, 3], a view of the memory map, and its mask bool [T]: False where it is filled up."""
        record = self.records[sample_id]
        _, *shape = record["shape"]
        size = math.prod(shape)
        start = record["offset"] + clip * size
        return self.pixels(record["part"])[start : start + size].reshape(shape), self._kept(record)[clip]

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps are opened again where they arrive, never copied there.
        return {"path": self.path, "records": self.records, "_maps": {}}

    @staticmethod
    def _kept(record: Record) -> np.ndarray:
        return np.arange(record["shape"][1]) < np.array(record["lengths"])[:, None]
