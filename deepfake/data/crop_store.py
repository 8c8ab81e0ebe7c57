"""A crop store: opening, listing and pruning what was prepared. Knows no video and no model."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from deepfake import presence
from deepfake.data.crop_records import Record, kept_frames, read_frames, read_landmarks, read_records
from deepfake.data.cropping import FRAME, CutSettings
from deepfake.data.faces.base import Landmarks
from deepfake.data.frame_sampling import ClipPlan
from deepfake.data.manifest import Manifest
from deepfake.data.media import Pixels
from deepfake.errors import DataError, nearest
from deepfake.files import appearing

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
        slack: Frames that are kept of each run beyond a clip's; None for what the folder says of itself.

    Attributes:
        path: The folder; its name is the :attr:`key`.
        records: By sample id.
        slack: As given, or read.
    """

    def __init__(self, folder: Path, records: dict[str, Record], slack: int | None = None) -> None:
        self.path = folder
        self.records = records
        self.slack = _slack_of(folder) if slack is None else slack
        self._maps: dict[str, Pixels] = {}
        # Held for as long as there is such a store, so that nobody removes its folder meanwhile.
        self._in_use = presence.enter(folder) if folder.is_dir() else None

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
        """One row per frame kept: sample_id, clip, position, then the fields of ``cropping.FRAME``."""
        tables = [self.frame_records(sample_id) for sample_id, r in self.records.items() if r["status"] == "ok"]
        owners = [sample_id for sample_id, r in self.records.items() if r["status"] == "ok"]
        joined = np.concatenate([t.reshape(-1) for t in tables]) if tables else np.zeros(0, FRAME)
        table = pd.DataFrame({name: joined[name] for name in FRAME.names or ()})
        table.insert(0, "sample_id", np.repeat(np.array(owners, object), [t.size for t in tables]))
        places = [np.indices(t.shape).reshape(2, -1) for t in tables]
        clip, position = np.concatenate(places, 1) if places else np.zeros((2, 0), int)
        table.insert(1, "clip", clip)
        table.insert(2, "position", position)
        no_filler: np.ndarray | list[bool] = (
            np.concatenate([kept_frames(self.records[owner]).reshape(-1) for owner in owners]) if owners else []
        )
        return table[np.asarray(no_filler, bool)].reset_index(drop=True)

    def frame_records(self, sample_id: str) -> np.ndarray:
        """The frame records [clips, T] of one sample, fillers included."""
        return read_frames(self.path, self.records[sample_id])

    def landmarks(self, sample_id: str) -> Landmarks | None:
        """See :func:`deepfake.data.crop_records.read_landmarks`."""
        return read_landmarks(self.records[sample_id])

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
        return self.pixels(record["part"])[start : start + size].reshape(shape), kept_frames(record)[clip]

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps are opened again where they arrive, never copied there.
        return {"path": self.path, "records": self.records, "slack": self.slack, "_maps": {}, "_in_use": None}


_VERSION = 5  # of what a store holds; another number begins new stores
_DECODERS = ("av", "opencv-python-headless", "opencv-python")


@dataclass(frozen=True)
class StoreInfo:
    """A store on disk.

    Attributes:
        key: Its name.
        path: Its folder.
        bytes: What it takes on the disk.
        samples: How many samples are in it; ``failed`` of them could not be used.
        settings: How its crops were cut.
        datasets: Names and folders of the data sets they came from.
        used: When it was last written to, in seconds since 1970.
    """

    key: str
    path: Path
    bytes: int
    samples: int
    failed: int
    settings: dict[str, Any]
    datasets: dict[str, str]
    used: float


def store_folder(manifest: Manifest, settings: CutSettings, cache: Path) -> Path:
    """Where the crops of a manifest's data sets lie when cut so: a digest of both names it."""
    text = json.dumps(_identity(manifest, settings), sort_keys=True)
    return _stores(cache) / hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def create_store(manifest: Manifest, settings: CutSettings, cache: Path) -> Path:
    """Make that folder, if there is none, with what its name stands for written in it.

    Raises:
        DataError: It cannot be made.
    """
    folder = store_folder(manifest, settings, cache)
    described = folder / "store.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not described.exists():
            with appearing(described) as temporary:
                temporary.write_text(json.dumps(_identity(manifest, settings), indent=2))
    except OSError as error:
        raise DataError(
            f"crops cannot be kept in {folder}: {error.strerror}", "set paths.outputs= to a folder you can write to"
        ) from error
    return folder


def open_store(folder: Path, manifest: Manifest) -> CropStore:
    """A store with the samples of a manifest, without a look at their files.

    Raises:
        DataError: It does not hold them all.
    """
    records = read_records(folder)
    names = [str(name) for name in manifest.table["sample_id"]]
    if missing := [name for name in names if name not in records]:
        raise DataError(
            f"the crops in {folder} lack {len(missing)} of {len(names)} samples, such as {missing[0]!r}",
            "prepare them again: deepfake prepare, or name where the files lie with dataset.root=",
        )
    return CropStore(folder, {name: records[name] for name in names})


def list_stores(cache: Path) -> list[StoreInfo]:
    """Every store of a cache, the one last written to first."""
    found = [_info(described) for described in _stores(cache).glob("*/store.json")]
    return sorted(found, key=lambda info: -info.used)


def prune_stores(cache: Path, keep: Collection[str] = ()) -> list[StoreInfo]:
    """Remove every store but those named; one that is being read or filled is left alone.

    Args:
        cache: Where they are.
        keep: Keys, or beginnings of keys.

    Returns:
        What was removed.

    Raises:
        DataError: ``keep`` names a store that is not there, so nothing was removed.
    """
    stores = list_stores(cache)
    keys = [info.key for info in stores]
    for name in keep:
        if not any(key.startswith(name) for key in keys):
            raise DataError(f"there is no crop store {name!r} in {_stores(cache)}", nearest(name, keys))
    unwanted = [info for info in stores if not any(info.key.startswith(name) for name in keep)]
    return [info for info in unwanted if remove_store(info.path)]


def remove_store(folder: Path) -> bool:
    """Remove a store that nobody reads or fills, its description last, so that half a store is still listed.

    Returns:
        Whether it is gone: one in use is left alone.
    """
    try:
        with presence.alone(folder):
            return _remove(folder)
    except presence.InUseError:
        return False


def _remove(folder: Path) -> bool:
    locks = [FileLock(lock) for lock in folder.glob("shard-*.lock")]
    held: list[FileLock] = []
    try:
        for lock in locks:
            lock.acquire(timeout=0)
            held.append(lock)
        for part in folder.glob("part-*"):
            part.unlink()
    except Timeout:
        return False
    finally:
        for lock in held:
            lock.release()
    for path in sorted(folder.iterdir(), key=lambda one: one.name == "store.json"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != presence.NAME:
            path.unlink()
    presence.discard(folder)
    return True


def _info(described: Path) -> StoreInfo:
    folder = described.parent
    files = [file.stat() for file in folder.iterdir() if file.is_file() and file.name != presence.NAME]
    identity = json.loads(described.read_text())
    records = read_records(folder)
    return StoreInfo(
        key=folder.name,
        path=folder,
        bytes=sum(facts.st_size for facts in files),
        samples=len(records),
        failed=sum(record["status"] != "ok" for record in records.values()),
        settings=identity["settings"],
        datasets=identity["datasets"],
        used=max(facts.st_mtime for facts in files),
    )


def _stores(cache: Path) -> Path:
    return cache.absolute() / "crops"


def _identity(manifest: Manifest, settings: CutSettings) -> dict[str, Any]:
    """Everything that changes a crop's pixels, and the folders the crops come from."""
    model = settings.face_model
    digest = hashlib.sha256(Path(model).read_bytes()).hexdigest() if model else None
    return {
        "version": _VERSION,
        "settings": {**_cutting(settings), "plan": _plan(settings.plan), "face_model": digest},
        "datasets": {name: str(root.resolve()) for name, root in sorted(manifest.roots.items())},
        "packages": {name: version for name in _DECODERS if (version := _installed(name))},
    }


def _slack_of(folder: Path) -> int:
    """None where nothing says how the crops were made."""
    described = folder / "store.json"
    if not described.is_file():
        return 0
    return int(json.loads(described.read_text(encoding="utf-8"))["settings"]["plan"].get("slack", 0))


def _cutting(settings: CutSettings) -> dict[str, Any]:
    """What came later is told where it changes a crop, so that stores of before are found."""
    rest = {"box": "frame", "view": "face", "max_faces": 1}
    return {name: value for name, value in asdict(settings).items() if name not in rest or rest[name] != value}


_LATER = ("slack", "stride_seconds", "part")


def _plan(plan: ClipPlan) -> dict[str, Any]:
    """Likewise."""
    return {name: value for name, value in asdict(plan).items() if value or name not in _LATER}


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
