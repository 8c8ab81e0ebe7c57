"""Kaggle's dagnelies/deepfake-faces: one face crop for each DFDC video, and a table of them.

Turns metadata.csv and faces_224/ into samples grouped by original video.
"""

from __future__ import annotations

import csv
from pathlib import Path

from deepfake.data.layouts.base import child, inside, list_files, listed, sample_ids
from deepfake.data.layouts.polarity import check_share
from deepfake.data.manifest import FAKE, IMAGE_SUFFIXES, REAL, Manifest, make_rows
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError

_LABELS = {"REAL": REAL, "FAKE": FAKE}


class DeepfakeFaces:
    """``metadata.csv`` with videoname, label and original; ``faces_224/<videoname>.jpg``."""

    name = "kaggle_deepfake_faces"
    summary = "metadata.csv beside faces_224/*.jpg (Kaggle dagnelies/deepfake-faces)"
    crops = True

    def probe(self, root: Path) -> Path | None:
        """The folder that holds both; or, if given faces_224 itself, the one above."""
        for folder in [*inside(root), *([root.parent] if root.name.lower() == "faces_224" else [])]:
            if child(folder, "faces_224") and (folder / "metadata.csv").is_file():
                return folder
        return None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every crop that is there and in the table; an original and its fakes are one group."""
        notes: list[str] = []
        folder = child(root, "faces_224") or "faces_224"
        files = {file.stem: file for file in list_files(root, folder, IMAGE_SUFFIXES, depth=1)}
        labels = _read_labels(root / "metadata.csv")
        check_share([label for label, _ in labels.values()], 0.6, 0.95, "metadata.csv")
        rows: list[dict[str, object]] = []
        for stem, (label, original) in labels.items():
            if stem not in files:
                continue
            method = "fake" if label == FAKE else "real"
            rows.append(
                {
                    "sample_id": sample_ids(options.name, [(method, stem)], [files[stem].path])[0],
                    "path": files[stem].path, "kind": "image", "label": label, "method": method,
                    "dataset": options.name, "bytes": files[stem].bytes, "groups": (f"dfdc/{original}",),
                }
            )  # fmt: skip
        absent = sorted(set(labels) - set(files))
        if absent:
            notes.append(
                f"metadata.csv names {len(absent)} of {len(labels)} faces that are not there: {listed(absent)}"
            )
        unnamed = sorted(set(files) - set(labels))
        if unnamed:
            notes.append(f"{len(unnamed)} faces that metadata.csv does not name are left out: {listed(unnamed)}")
        unknown = (
            "people and DFDC's parts are named nowhere: the same person may be on both sides of the splits, which are "
            "made by original; only near-duplicates of a face show"
        )
        return Manifest(make_rows(rows), {options.name: root}, [*notes, unknown], unknown=[unknown])


def _read_labels(path: Path) -> dict[str, tuple[int, str]]:
    """Label and original's stem by video stem; a real video is its own original."""
    labels = {}
    with path.open(encoding="utf-8-sig", newline="") as stream:
        for number, line in enumerate(csv.DictReader(stream), start=2):
            label = (line.get("label") or "").strip().upper()
            if label not in _LABELS or not line.get("videoname"):
                raise DataError(
                    f"{path.name} row {number} has the label {line.get('label')!r}",
                    "it needs the columns videoname, label (REAL or FAKE) and original",
                )
            stem = Path(str(line["videoname"])).stem
            original = Path(line.get("original") or "").stem
            labels[stem] = (_LABELS[label], original if original and original.lower() != "nan" else stem)
    return labels
