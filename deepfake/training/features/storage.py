"""A file of features on disk: written beside and renamed, opened as a memory map. Knows no model and no clips."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from deepfake.training.features.spec import FeatureSpec
from deepfake.whole import appearing

DATA = "features.bin"
META = "features.json"
_SPARE = 256 << 20  # bytes left free on the disk


class NoRoomError(Exception):
    """Features cannot be kept here; the text says why, for the user."""


@dataclass(frozen=True)
class FrameKind:
    """What the backbone gives for one frame: a shape and a type."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """What one frame takes."""
        return math.prod(self.shape) * self.dtype.itemsize


#: The frame at which they begin, and features [n, ...] of as many frames.
Written = tuple[int, Tensor]


def open_features(folder: Path, spec: FeatureSpec, frames: int) -> tuple[Tensor | None, str]:
    """Stored features as a tensor [frames, ...] over a memory map, or why there are none.

    Args:
        folder: ``<features>/<key>``.
        spec: What the features must be of.
        frames: How many there must be, over all views.

    Returns:
        The tensor and an empty text; or None and a reason, which is empty where nothing is stored.
    """
    if not folder.exists():
        return None, ""
    try:
        meta = json.loads((folder / META).read_text())
        kind = FrameKind(tuple(meta["shape"]), getattr(torch, meta["dtype"]))
        size = (folder / DATA).stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"it cannot be read ({error})"
    if differing := spec.differences(meta.get("spec", {})):
        return None, f"it is of other {' and '.join(differing)}"
    if size != frames * kind.bytes:
        return None, f"it holds {size} bytes instead of {frames * kind.bytes}"
    # A private map: nothing that is done with the tensor can change the file.
    flat = torch.from_file(str(folder / DATA), shared=False, size=frames * math.prod(kind.shape), dtype=kind.dtype)
    return flat.view(frames, *kind.shape), ""


def write_features(
    folder: Path, spec: FeatureSpec, frames: int, kind: FrameKind, parts: Callable[[], Iterable[Written]]
) -> None:
    """Store features; the folder appears whole or not at all.

    Args:
        folder: ``<features>/<key>``; what lies there is replaced.
        spec: What they are of.
        frames: How many come, over all views.
        kind: Of each.
        parts: Computes them, in any order.

    Raises:
        NoRoomError: The disk has no room, or refuses.
    """
    try:
        with appearing(folder) as temporary:
            _check_room(folder.parent, frames * kind.bytes)
            temporary.mkdir()
            with open(temporary / DATA, "wb") as file:
                for start, features in parts():
                    file.seek(start * kind.bytes)
                    file.write(features.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                file.flush()
                os.fsync(file.fileno())
            meta = {"spec": asdict(spec), "shape": kind.shape, "dtype": str(kind.dtype).removeprefix("torch.")}
            (temporary / META).write_text(json.dumps(meta, indent=2))
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise NoRoomError(f"features cannot be kept in {folder.parent}: {error.strerror or error}") from error


def relative(folder: Path, spec: FeatureSpec) -> str:
    """In which way the features stored beside, of the same clips and tap, are not those wanted; empty for none."""
    for meta in folder.parent.glob(f"*/{META}"):
        try:
            told = json.loads(meta.read_text())["spec"]
        except (OSError, ValueError, KeyError):
            continue
        if all(told.get(name) == getattr(spec, name) for name in ("clips", "backbone", "tap", "views", "changes")):
            return f"those of {meta.parent.name} are of other {' and '.join(spec.differences(told))}"
    return ""


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free - _SPARE:
        raise NoRoomError(f"features would take {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free")
