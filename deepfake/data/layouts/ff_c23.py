"""Kaggle's xdxd003/ff-c23: FaceForensics++ at c23, one flat folder for each method and a folder of tables.

Turns FaceForensics++_C23/{original,Deepfakes,...} into samples named and grouped as the official tree's are.
"""

from __future__ import annotations

import csv
from pathlib import Path

from deepfake.data.layouts.base import child, inside, list_files, list_folders, listed
from deepfake.data.layouts.faceforensics import (
    METHODS,
    make_sample_rows,
    name_originals,
    note_missing_pairs,
    read_split_files,
    split_of,
)
from deepfake.data.layouts.polarity import check_against_folders
from deepfake.data.manifest import FAKE, REAL, VIDEO_SUFFIXES, Manifest, make_rows
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError, nearest

_METADATA = "ff++_metadata.csv"


class FfC23:
    """``original`` and a folder for each method, with the videos right in them."""

    name = "kaggle_ff_c23"
    summary = "FaceForensics++_C23/{original,Deepfakes,Face2Face,...}/*.mp4 (Kaggle xdxd003/ff-c23)"
    crops = False

    def probe(self, root: Path) -> Path | None:
        """The folder that holds ``original`` beside at least one method's folder."""
        for folder in inside(root):
            if child(folder, "original") and child(folder, *METHODS):
                return folder
        return None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every video of the wanted methods, grouped by target and source footage."""
        notes: list[str] = []
        there = {name.lower(): name for name in list_folders(root)}
        found = [name for name in METHODS if name.lower() in there]
        wanted = _wanted(found, options, notes)
        folders = [(there["original"], "youtube", REAL)] if "original" in there else []
        folders += [(there[name.lower()], name, FAKE) for name in wanted]
        rows: list[dict[str, object]] = []
        for folder, method, label in folders:
            files = list_files(root, folder, VIDEO_SUFFIXES, depth=1)
            rows += make_sample_rows(files, method, label, options.name, "c23")
        _note_actors(rows, notes)
        known = {"original", "csv", "splits", *(name.lower() for name in METHODS)}
        unknown = [name for lower, name in sorted(there.items()) if lower not in known]
        if unknown:
            notes.append(f"folders that are not read: {listed(unknown)}")
        check_against_folders(_table_labels(root), rows, _METADATA)
        splits = read_split_files(root, options, notes)
        for row in rows:
            row["split"] = split_of(str(row["stem"]), splits)
        name_originals(rows)
        note_missing_pairs(rows, notes)
        return Manifest(make_rows(rows).drop(columns="stem"), {options.name: root}, notes, official=bool(splits))


def _wanted(found: list[str], options: DatasetOptions, notes: list[str]) -> list[str]:
    if options.methods is not None:
        for name in options.methods:
            if name not in found:
                raise DataError(f"dataset.methods names {name!r}, which is not there", nearest(name, found))
        return list(options.methods)
    missing = [name for name in METHODS if name not in found]
    if missing:
        notes.append(f"methods that are not there: {', '.join(missing)}")
    return found


def _note_actors(rows: list[dict[str, object]], notes: list[str]) -> None:
    actors = [row for row in rows if "__" in str(row["stem"])]
    if actors and all(row["label"] == FAKE for row in actors):
        notes.append(
            f"the {len(actors)} DeepFakeDetection fakes come without their actors' originals, in another resolution "
            "than all reals: the source gives the label away; leave them out with dataset.methods"
        )


def _table_labels(root: Path) -> dict[str, str]:
    """What the copy's own table says of each file, by the file's last two path parts in lower case."""
    folder = child(root, "csv")
    tables = [p for p in (root / folder).iterdir() if p.name.lower() == _METADATA] if folder else []
    if not tables:
        return {}
    with tables[0].open(encoding="utf-8-sig", newline="") as stream:
        lines = list(csv.DictReader(stream))
    labels = {}
    for line in lines:
        path = (line.get("File Path") or "").replace("\\", "/")
        labels["/".join(path.lower().split("/")[-2:])] = (line.get("Label") or "").strip()
    return labels
