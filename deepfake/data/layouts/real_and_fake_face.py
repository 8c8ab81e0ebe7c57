"""Kaggle's ciplab/real-and-fake-face-detection: photographs, and photographs with parts of other faces put in.

Turns training_real and training_fake into samples whose method says how hard and which parts. It has no splits.
"""

from __future__ import annotations

import re
from pathlib import Path

from deepfake.data.layouts.base import child, inside, kind_of, list_files, list_folders, listed, sample_ids
from deepfake.data.manifest import FAKE, IMAGE_SUFFIXES, REAL, Manifest, make_rows
from deepfake.data.options import DatasetOptions

#: The four digits at the end of a fake's name, first to last: 1 where that part was replaced.
PARTS = ("left_eye", "right_eye", "nose", "mouth")
_NAME = re.compile(r"^(?P<level>easy|mid|hard)_\d+_(?P<bits>[01]{4})$")


class RealAndFakeFace:
    """``training_real/real_00001.jpg`` and ``training_fake/easy_1_1110.jpg``."""

    name = "kaggle_real_and_fake_face"
    summary = "real_and_fake_face/{training_real,training_fake} (Kaggle ciplab/real-and-fake-face-detection)"
    # Whole faces fill its pictures.
    crops = True

    def probe(self, root: Path) -> Path | None:
        """The folder that holds training_real and training_fake."""
        for folder in inside(root):
            inner = child(folder, "real_and_fake_face")
            for place in (folder, folder / inner if inner else folder):
                if child(place, "training_real") and child(place, "training_fake"):
                    return place
        return None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every picture; its name tells no shared source, so each is a group of its own."""
        notes = ["easy, mid and hard were judged by eye; the set's authors advise against using them as classes"]
        rows: list[dict[str, object]] = []
        odd = []
        for name, label in (("training_real", REAL), ("training_fake", FAKE)):
            files = list_files(root, child(root, name) or name, IMAGE_SUFFIXES)
            methods = ["real" if label == REAL else method_of(file.stem) for file in files]
            odd += [file.path for file, method in zip(files, methods, strict=True) if method == "fake"]
            ids = sample_ids(
                options.name, [(m, f.stem) for m, f in zip(methods, files, strict=True)], [f.path for f in files]
            )
            rows += [
                {
                    "sample_id": own, "path": file.path, "kind": kind_of(file.path), "label": label,
                    "method": method, "dataset": options.name, "bytes": file.bytes,
                }
                for own, file, method in zip(ids, files, methods, strict=True)
            ]  # fmt: skip
        if odd:
            notes.append(f"{len(odd)} fakes whose names tell no replaced parts: {listed(odd)}")
        unknown = [n for n in list_folders(root) if n.lower() not in ("training_real", "training_fake")]
        if unknown:
            notes.append(f"folders that are not read: {listed(unknown)}")
        return Manifest(make_rows(rows), {options.name: root}, notes)


def method_of(stem: str) -> str:
    """``easy_1_1110`` to ``easy-left_eye-right_eye-nose``; ``fake`` where the name is of another form."""
    match = _NAME.match(stem.lower())
    if not match:
        return "fake"
    parts = [part for part, bit in zip(PARTS, match["bits"], strict=True) if bit == "1"]
    return "-".join([match["level"], *parts])
