"""What a frozen backbone's outputs depend on, as a description and its digest. Knows no labels and no splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np
import torch
from lightning_fabric import Fabric

from deepfake.models.detector import Detector
from deepfake.training.checkpoint import weights_digest
from deepfake.training.source import ClipSource

#: Raised when what is stored changes its meaning.
FORMAT = 1
_PACKAGES = ("torch", "timm")
#: What Fabric calls full precision.
EXACT = "32-true"


@dataclass(frozen=True)
class Layout:
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
    def of(cls, sources: Sequence[ClipSource], contents: Mapping[str, str], *, drawn: bool) -> Layout:
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
        clips: :attr:`Layout.digest`.
        backbone: Its name.
        weights: Digest of its parameters and statistics.
        normalisation: Mean and deviation of the pixels it reads.
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


def describe(
    detector: Detector,
    name: str,
    layout: Layout,
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
        normalisation=str((detector.backbone.mean, detector.backbone.std)),
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
