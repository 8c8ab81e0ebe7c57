"""Kaggle's sets of face pictures that are folders by class: 140k faces, deepfake and real images, hard fakes.

Each is found by what only its copy has; read as class folders are.
"""

from __future__ import annotations

import csv
from pathlib import Path

from deepfake.data.layouts.base import child, inside
from deepfake.data.layouts.folders import ClassFolders
from deepfake.data.layouts.polarity import check_against_folders
from deepfake.data.manifest import IMAGE_SUFFIXES, Manifest
from deepfake.data.options import DatasetOptions


class Faces140k(ClassFolders):
    """xhlulu/140k-real-and-fake-faces: FFHQ photographs and StyleGAN faces. In its tables label 1 means real."""

    name = "kaggle_140k_faces"
    summary = "real_vs_fake/real-vs-fake/{train,valid,test}/{real,fake} (Kaggle xhlulu/140k-real-and-fake-faces)"
    crops = True
    suffixes = IMAGE_SUFFIXES

    def probe(self, root: Path) -> Path | None:
        """The folder ``real-vs-fake``, given itself or up to three above it."""
        if root.name.lower() == "real-vs-fake" and child(root, "train"):
            return root
        for folder in inside(root):
            outer = child(folder, "real_vs_fake")
            for above in (folder, folder / outer if outer else folder):
                inner = child(above, "real-vs-fake")
                if inner and child(above / inner, "train", "valid", "test"):
                    return above / inner
        return None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """As class folders, which decide; the tables beside them are only held against the folders."""
        manifest = super().read(root, options)
        columns = zip(manifest.table["path"], manifest.table["label"], strict=True)
        rows: list[dict[str, object]] = [{"path": path, "label": int(label)} for path, label in columns]
        for above in (root.parents[0], root.parents[1]):
            for name in ("train", "valid", "test"):
                if (above / f"{name}.csv").is_file():
                    own = [row for row in rows if str(row["path"]).lower().startswith(f"{name}/")]
                    check_against_folders(_words(above / f"{name}.csv"), own, f"{name}.csv")
        return manifest


def _words(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = list(csv.DictReader(stream))
    return {"/".join((line.get("path") or "").lower().split("/")[-2:]): (line.get("label_str") or "") for line in lines}


class DeepfakeAndRealImages(ClassFolders):
    """manjilkarki/deepfake-and-real-images: no name tells a person or a source, so no leak between parts shows."""

    name = "kaggle_deepfake_and_real_images"
    summary = "Dataset/{Train,Validation,Test}/{Real,Fake} (Kaggle manjilkarki/deepfake-and-real-images)"
    crops = True
    suffixes = IMAGE_SUFFIXES

    def probe(self, root: Path) -> Path | None:
        """The folder ``Dataset``, given itself or up to two above it."""
        candidates = [root] if root.name.lower() == "dataset" else []
        for folder in inside(root):
            inner = child(folder, "Dataset")
            candidates += [folder / inner] if inner else []
        for folder in candidates:
            train, val = child(folder, "Train"), child(folder, "Validation")
            if train and val and child(folder / train, "Fake"):
                return folder
        return None


class HardFake(ClassFolders):
    """hamzaboulahia/hardfakevsrealfaces: 589 photographs and 700 StyleGAN2 faces of 300 pixels."""

    name = "kaggle_hardfake"
    summary = "{train,valid}/{real,fake} or {real,fake} with fake_1.jpg to fake_700.jpg (Kaggle hardfakevsrealfaces)"
    crops = True
    suffixes = IMAGE_SUFFIXES

    def probe(self, root: Path) -> Path | None:
        """The folder whose pictures are numbered as this set's are, with no test part."""
        for folder in inside(root):
            if child(folder, "test"):
                continue
            if _numbered(folder, "fake", 700) and _numbered(folder, "real", 589):
                return folder
        return None


def _numbered(root: Path, word: str, most: int) -> bool:
    """Whether ``word_1.jpg`` or its like up to the set's last number lie in a folder of that name, and none beyond."""
    folders = [root / part / word for part in ("train", "valid", ".")]

    def there(number: int) -> bool:
        return any((folder / f"{word}_{number}.jpg").is_file() for folder in folders)

    return any(there(n) for n in (1, 2, 3, most)) and not there(most + 1) and not there(0)
