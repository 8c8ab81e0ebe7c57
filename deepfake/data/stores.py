"""The crop stores of a cache: their names, what they hold, and how to be rid of them. Knows not how they are filled."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deepfake.data.cut import CutSettings
from deepfake.data.manifest import Manifest
from deepfake.data.part import read_records
from deepfake.errors import DataError, nearest
from deepfake.whole import appearing

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


def list_stores(cache: Path) -> list[StoreInfo]:
    """Every store of a cache, the one last written to first."""
    found = [_info(described) for described in _stores(cache).glob("*/store.json")]
    return sorted(found, key=lambda info: -info.used)


def prune_stores(cache: Path, keep: Collection[str] = ()) -> list[StoreInfo]:
    """Remove every store but those named; one that is being filled is left alone.

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
    return [info for info in unwanted if _remove(info.path)]


def _remove(folder: Path) -> bool:
    """Remove a store that nobody is filling, its description last, so that half a store is still listed."""
    locks = [FileLock(lock) for lock in folder.glob("*.lock")]
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
    shutil.rmtree(folder)
    return True


def _info(described: Path) -> StoreInfo:
    folder = described.parent
    files = [file.stat() for file in folder.iterdir() if file.is_file()]
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
        "settings": {**asdict(settings), "face_model": digest},
        "datasets": {name: str(root.resolve()) for name, root in sorted(manifest.roots.items())},
        "packages": {name: version for name in _DECODERS if (version := _installed(name))},
    }


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
