"""One module per layout on disk; each turns a folder into a manifest."""

from __future__ import annotations

from pathlib import Path

from deepfake.data.layouts.base import Layout
from deepfake.data.layouts.celebdf import CelebDf
from deepfake.data.layouts.deepfake_faces import DeepfakeFaces
from deepfake.data.layouts.demo import Demo
from deepfake.data.layouts.dfdc import Dfdc
from deepfake.data.layouts.faceforensics import FaceForensics
from deepfake.data.layouts.ff_c23 import FfC23
from deepfake.data.layouts.images import Images
from deepfake.data.layouts.kaggle import Kaggle
from deepfake.data.layouts.kaggle_faces import DeepfakeAndRealImages, Faces140k, HardFake
from deepfake.data.layouts.real_and_fake_face import RealAndFakeFace
from deepfake.data.layouts.table import Table
from deepfake.data.layouts.videos import Videos

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
