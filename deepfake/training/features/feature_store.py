"""Features on disk: what they depend on as a digest, written beside and renamed, opened as a memory map.

Knows no clips, no labels and no splits."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from deepfake.data.clips import ClipSource
from deepfake.files import appearing
from deepfake.models.detector import Detector
from deepfake.training.checkpoint import weights_digest

#: Raised when what is stored changes its meaning.
FORMAT = 1
_PACKAGES = ("torch", "timm")
#: What Fabric calls full precision.
EXACT = "32-true"


@dataclass(frozen=True)
class FeatureLayout:
    """Which clips' frames lie where in a file of features.

    Attributes:
        starts: The first frame of each (sample_id, clip).
        frames: How many there are in all, without fillers.
        digest: Of the clips' contents and order.
    """

    starts: dict[tuple[str, int], int]
    frames: int
    digest: str

    @classmethod
    def of(cls, sources: Sequence[ClipSource], contents: Mapping[str, str], *, drawn: bool) -> FeatureLayout:
        """Lay clips out one after another.

        Args:
            sources: Whose clips; each sample in one of them.
            contents: A digest of each sample's pixels and of how they were cut, by sample id.
            drawn: The clips are changed at random, by their place in their source: their order stands. Otherwise
                they are ordered by content, and the same clips in other splits are laid out alike.
        """
        rows = [
            (contents[sample], int(clip), int(length), sample)
            for source in sources
            for sample, clip, length in zip(
                source.table["sample_id"].to_numpy()[source.items[:, 0]],
                source.items[:, 1],
                source.lengths,
                strict=True,
            )
        ]
        if not drawn:
            rows.sort(key=lambda row: (row[0], row[3], row[1]))
        lengths = np.array([length for _, _, length, _ in rows], np.int64)
        ends = np.cumsum(lengths)
        starts = {(sample, clip): int(end - length) for (_, clip, length, sample), end in zip(rows, ends, strict=True)}
        text = json.dumps([row[:3] for row in rows])
        return cls(starts, int(lengths.sum()), hashlib.sha256(text.encode()).hexdigest())


@dataclass(frozen=True)
class FeatureSpec:
    """All that a file of features depends on.

    Attributes:
        clips: :attr:`FeatureLayout.digest`.
        backbone: Its name.
        weights: Digest of its parameters and statistics.
        normalisation: Mean and deviation of the pixels it reads, and the side they are brought to where there is one.
        tap: ``vectors`` or ``maps``.
        precision: As Fabric calls it, with the kind of device and whether it takes TensorFloat-32.
        views: How many changed versions of each clip are stored; 0 for the clips as they are.
        changes: How they are changed; empty for none.
        versions: Of the libraries that compute.
        format: Of the file.
    """

    clips: str
    backbone: str
    weights: str
    normalisation: str
    tap: str
    precision: str
    views: int
    changes: str
    versions: dict[str, str]
    format: int = FORMAT

    @property
    def key(self) -> str:
        """The name of the file's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:20]

    def differences(self, other: Mapping[str, object]) -> list[str]:
        """Which fields another description, as read from a file, has otherwise."""
        return [name for name, value in asdict(self).items() if other.get(name) != value]


def trains_exactly(fabric: Fabric) -> bool:
    """Whether training computes in full precision: then its features are those that scores are made of too."""
    return _precision(fabric) == [EXACT, fabric.device.type]


def _normalisation(detector: Detector) -> str:
    known = (detector.backbone.mean, detector.backbone.std)
    return str(known if detector.size is None else (*known, detector.size))


def describe(
    detector: Detector,
    name: str,
    layout: FeatureLayout,
    fabric: Fabric,
    *,
    views: int = 0,
    changes: str = "",
    exact: bool = False,
) -> FeatureSpec:
    """The spec of what a detector's backbone gives for some clips.

    Args:
        detector: Frozen.
        name: What its backbone is called.
        layout: Of the clips.
        fabric: Decides device and precision.
        views: See :class:`FeatureSpec`.
        changes: Likewise.
        exact: They are computed in full precision, whatever the fabric's is.
    """
    parts = [EXACT, fabric.device.type] if exact else _precision(fabric)
    return FeatureSpec(
        clips=layout.digest,
        backbone=name,
        weights=weights_digest(detector.backbone),
        normalisation=_normalisation(detector),
        tap=detector.reads,
        precision=" ".join(parts),
        views=views,
        changes=changes,
        versions={package: version(package) for package in _PACKAGES},
    )


def _precision(fabric: Fabric) -> list[str]:
    """How training computes on this device."""
    short = torch.backends.cudnn.allow_tf32 and fabric.device.type == "cuda"
    return [fabric.strategy.precision.precision, fabric.device.type, *(["tf32"] if short else [])]


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


def why_not_those_beside(folder: Path, spec: FeatureSpec) -> str:
    """Why features of the same clips and tap that are stored already are not the ones wanted; empty for none."""
    for meta in folder.parent.glob(f"*/{META}"):
        try:
            stored = json.loads(meta.read_text())["spec"]
        except (OSError, ValueError, KeyError):
            continue
        if all(stored.get(name) == getattr(spec, name) for name in ("clips", "backbone", "tap", "views", "changes")):
            return f"those of {meta.parent.name} are of other {' and '.join(spec.differences(stored))}"
    return ""


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free - _SPARE:
        raise NoRoomError(f"features would take {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free")
