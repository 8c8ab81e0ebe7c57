"""One module per layout on disk; each turns a folder into a manifest."""

from __future__ import annotations

from pathlib import Path

from deepfake.data.layouts.base import Layout
from deepfake.data.layouts.celebdf import CelebDf
from deepfake.data.layouts.class_folders import (
    DeepfakeAndRealImages,
    Faces140k,
    HardFake,
    Images,
    RealAndFakeFace,
    Videos,
)
from deepfake.data.layouts.dfdc import DeepfakeFaces, Dfdc
from deepfake.data.layouts.faceforensics import Demo, FaceForensics, FfC23
from deepfake.data.layouts.kaggle import Kaggle
from deepfake.data.layouts.table import Table

__all__ = ["LAYOUTS", "Layout", "find_layouts"]

_KAGGLE: tuple[Layout, ...] = (
    FfC23(), DeepfakeFaces(), Faces140k(), DeepfakeAndRealImages(), RealAndFakeFace(), HardFake(), CelebDf(), Dfdc(),
)  # fmt: skip

#: Every layout by its name, the most telling first.
LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (Demo(), FaceForensics(), *_KAGGLE, Images(), Videos(), Table(), Kaggle(_KAGGLE))
}


def find_layouts(root: Path) -> list[tuple[Layout, Path]]:
    """The layouts that a folder is in, with the folder each begins in, the most telling first."""
    found = []
    for layout in LAYOUTS.values():
        begins = layout.probe(root)
        if begins is not None:
            found.append((layout, begins))
    return found
