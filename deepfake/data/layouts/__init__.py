"""One module per layout on disk; each turns a folder into a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepfake.data.layouts.base import Layout, inside
from deepfake.data.layouts.celebdf import CelebDf, CelebDfPp
from deepfake.data.layouts.class_folders import (
    DeepfakeAndRealImages,
    Faces140k,
    HardFake,
    Images,
    RealAndFakeFace,
    Videos,
)
from deepfake.data.layouts.dfdc import DeepfakeFaces, Dfdc
from deepfake.data.layouts.dfdcp import Dfdcp
from deepfake.data.layouts.faceforensics import Demo, Dfd, FaceForensics, FfC23
from deepfake.data.layouts.in_the_wild import Ffiw, WildDeepfake
from deepfake.data.layouts.table import Table
from deepfake.data.manifest import Manifest
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError

__all__ = ["LAYOUTS", "Kaggle", "Layout", "find_layouts"]

#: Folders probed at most: what was unzipped lies beside few others.
_MOST_FOLDERS = 20


class Kaggle:
    """The first of several layouts that fits.

    Args:
        layouts: The most telling first.
    """

    name = "kaggle"
    summary = "one of the known Kaggle sets, as downloaded and unzipped"
    crops = False

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.layouts = tuple(layouts)

    def find(self, root: Path) -> tuple[Layout, Path] | None:
        """The layout that a folder is in, and where it begins."""
        for folder in inside(root)[:_MOST_FOLDERS]:
            for layout in self.layouts:
                begins = layout.probe(folder)
                if begins is not None:
                    return layout, begins
        return None

    def probe(self, root: Path) -> Path | None:
        """Where the set that was found begins."""
        found = self.find(root)
        return found[1] if found else None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """The set that was found, and a note that says which it is."""
        found = self.find(root)
        if found is None:
            raise DataError(f"no known Kaggle set in {root}", f"known are {', '.join(x.name for x in self.layouts)}")
        layout, begins = found
        manifest = layout.read(begins, options)
        manifest.notes.insert(0, f"found {layout.name} in {begins}: {layout.summary}")
        return manifest


_KAGGLE: tuple[Layout, ...] = (
    FfC23(), DeepfakeFaces(), Faces140k(), DeepfakeAndRealImages(), RealAndFakeFace(), HardFake(), CelebDf(), Dfdc(),
)  # fmt: skip

_LAYOUTS: tuple[Layout, ...] = (
    Demo(), FaceForensics(), Dfd(), CelebDfPp(), Dfdcp(), Ffiw(), WildDeepfake(), *_KAGGLE, Images(), Videos(), Table(),
    Kaggle(_KAGGLE),
)  # fmt: skip

#: Every layout by its name, the most telling first.
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _LAYOUTS}


def find_layouts(root: Path) -> list[tuple[Layout, Path]]:
    """The layouts that a folder is in, with the folder each begins in, the most telling first."""
    found = []
    for layout in LAYOUTS.values():
        begins = layout.probe(root)
        if begins is not None:
            found.append((layout, begins))
    return found
