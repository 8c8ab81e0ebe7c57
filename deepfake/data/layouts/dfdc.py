"""DFDC (Dolhansky et al. 2020, arXiv:2006.07397): videos with a metadata.json beside them, in one or many folders.

Turns whole parts, Kaggle's sample, a labelled test folder or any mix of them into samples grouped by original and,
where there are enough of them, by part: its people were filmed for it, and no name tells who is in which video.
Kaggle's dagnelies/deepfake-faces is one face crop for each of its videos, and a table of them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from deepfake.data.layouts.base import (
    check_fraction,
    child,
    inside,
    list_files,
    list_folders,
    listed,
    read_json,
    sample_ids,
)
from deepfake.data.manifest import FAKE, REAL, Manifest, make_rows
from deepfake.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError

METADATA = "metadata.json"
LABELS = "labels.csv"
_WORDS = {"REAL": REAL, "FAKE": FAKE}
_PART = re.compile(r"dfdc_train_part_\d+")
_LARGEST = 0.85  # the fraction of the videos past which one part leaves too little for the other splits


class Dfdc:
    """Folders of ``<name>.mp4`` with ``metadata.json``, as dfdc_train_part_0 to _49 or train_sample_videos."""

    name = "dfdc"
    summary = "metadata.json beside the videos, here or in folders such as dfdc_train_part_0 (DFDC)"
    crops = False

    def probe(self, root: Path) -> Path | None:
        """The folder that holds metadata.json, or whose folders do; or a labelled test part alone."""
        for folder in inside(root):
            if _part_folders(folder):
                return folder
        return next((folder for folder in inside(root) if _test_folders(folder)), None)

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every video that is there and named by its metadata; an original, its fakes and its part are groups."""
        notes: list[str] = []
        rows: list[dict[str, object]] = []
        parts = _part_folders(root)
        for part in parts:
            rows += _read_part(root, part, options.name, notes)
        check_fraction([int(str(row["label"])) for row in rows], 0.6, 0.95, METADATA)
        rows += _read_test(root, options.name, notes)
        unread = [name for name in list_folders(root) if name not in parts and _unlabelled(root, name)]
        if unread:
            notes.append(f"folders of videos without labels are left out: {', '.join(unread)}")
        _note_originals(rows, notes)
        unknown = _group_by_part(rows, options, notes)
        table = make_rows(_disambiguated(rows))
        return Manifest(table, {options.name: root}, [*notes, *unknown], bool((table["split"] != "").any()), unknown)


def _part_folders(root: Path) -> list[str]:
    here = [""] if (root / METADATA).is_file() else []
    return here + [name for name in list_folders(root) if (root / name / METADATA).is_file()]


def _read_part(root: Path, part: str, dataset: str, notes: list[str]) -> list[dict[str, object]]:
    where = f"{part}/{METADATA}" if part else METADATA
    entries = _read_metadata(root / where)
    files = {file.path.rsplit("/", 1)[-1]: file for file in list_files(root, part, VIDEO_SUFFIXES)}
    absent = sorted(name for name in entries if name not in files)
    if absent:
        notes.append(f"{where} names {len(absent)} of {len(entries)} files that are not there: {listed(absent)}")
    unnamed = sorted(name for name in files if name not in entries)
    if unnamed:
        notes.append(f"{len(unnamed)} files that {where} does not name are left out: {listed(unnamed)}")
    rows = []
    for name, file in files.items():
        if name in entries:
            label, original = entries[name]
            rows.append(_row(file.path, file.stem, file.bytes, label, original, dataset))
    return rows


def _row(path: str, stem: str, size: int, label: int, original: str, dataset: str) -> dict[str, object]:
    return {
        "path": path, "kind": "video", "label": label, "method": "fake" if label == FAKE else "real",
        "dataset": dataset, "bytes": size, "groups": (f"dfdc/{Path(original).stem}",), "stem": stem,
    }  # fmt: skip


def _read_metadata(path: Path) -> dict[str, tuple[int, str]]:
    """Label and original of each file that a metadata.json names; a real video is its own original."""
    hint = 'DFDC\'s metadata is {"x.mp4": {"label": "FAKE", "original": "y.mp4"}, ...}'
    loaded = read_json(path, hint)
    if not isinstance(loaded, dict):
        raise DataError(f"{path} holds no table of files", hint)
    entries = {}
    for name, entry in loaded.items():
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(label, str) or label not in _WORDS:
            raise DataError(f"{path} gives {name} the label {label!r}", "labels are REAL and FAKE")
        entries[name] = (_WORDS[label], str(entry.get("original") or name))
    return entries


def _test_folders(root: Path) -> list[str]:
    """Folders with a table of the published test part's labels: this one, and those right below."""
    return [name for name in ("", *list_folders(root)) if _names_labels(root / name / LABELS)]


def _names_labels(path: Path) -> bool:
    """Whether a table begins as the published one does; others may have one of the same name."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return {"filename", "label"} <= {name.strip() for name in stream.readline(200).split(",")}
    except OSError:
        return False


def _read_test(root: Path, dataset: str, notes: list[str]) -> list[dict[str, object]]:
    """The published test part: ``test/labels.csv`` with filename and label (1 is fake), videos beside or below."""
    rows: list[dict[str, object]] = []
    for folder in _test_folders(root):
        files = {f.path.rsplit("/", 1)[-1]: f for f in list_files(root, folder, VIDEO_SUFFIXES, depth=1)}
        with (root / folder / LABELS).open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
        absent = []
        for line in lines:
            name, label = line.get("filename", ""), (line.get("label") or "").strip()
            if label not in ("0", "1"):
                raise DataError(
                    f"{folder}/{LABELS} gives {name} the label {label!r}", "labels are 0 for real and 1 for fake"
                )
            if name not in files:
                absent.append(name)
                continue
            file = files[name]
            rows.append({**_row(file.path, file.stem, file.bytes, int(label), name, dataset), "split": "test"})
        if absent:
            notes.append(
                f"{folder}/{LABELS} names {len(absent)} of {len(lines)} files that are not there: {listed(absent)}"
            )
    return rows


def _unlabelled(root: Path, folder: str) -> bool:
    if (root / folder / LABELS).is_file():
        return False
    return bool(list_files(root, folder, VIDEO_SUFFIXES))


def _note_originals(rows: list[dict[str, object]], notes: list[str]) -> None:
    stems = {f"dfdc/{row['stem']}" for row in rows if row["label"] == REAL}
    fakes = [row for row in rows if row["label"] == FAKE and row.get("split") != "test"]
    lone = [row for row in fakes if row["groups"][0] not in stems]  # type: ignore[index]
    if lone:
        notes.append(f"{len(lone)} of {len(fakes)} fakes have no original beside them; they are grouped by its name")


def _group_by_part(rows: list[dict[str, object]], options: DatasetOptions, notes: list[str]) -> list[str]:
    """Add each video's part to its groups where whole parts can make the splits; else say that people may be shared.

    The training parts hold 19,154 originals of 486 people (arXiv:2006.07397), who are named nowhere. A part is the
    least that is known to keep a person's videos together.

    Returns:
        What cannot be known, if anything.
    """
    published = [row for row in rows if row.get("split") != "test"]
    named = Counter(part_of(str(row["path"])) for row in published)
    wanted = sum(share > 0 for share in options.split_ratios)
    if not published:
        return []
    parts = {name: count for name, count in named.items() if name}
    if len(parts) >= wanted and "" not in named and max(parts.values()) <= _LARGEST * len(published):
        for row in published:
            row["groups"] = (*row["groups"], f"dfdc/{part_of(str(row['path']))}")  # type: ignore[misc]
        notes.append(
            f"people are named nowhere, but belong to parts: the {len(parts)} parts are kept whole, each in one split"
        )
        return []
    if "" in named:
        why = "no folder says which part each video is of"
    elif len(parts) < wanted:
        why = f"{len(parts)} {'part' if len(parts) == 1 else 'parts'} cannot make {wanted} splits"
    else:
        why = f"one part holds more than {_LARGEST:.0%} of the videos"
    return [
        f"people are named nowhere and may be on both sides of the splits: {why}, so that these are made by original; "
        f"{wanted} or more folders dfdc_train_part_* are dealt whole"
    ]


def part_of(path: str) -> str:
    """The part a video's folder names, such as ``dfdc_train_part_7``; "" for any other folder."""
    match = _PART.search(path.lower().rsplit("/", 1)[0])
    return match[0] if match else ""


def _disambiguated(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Rows with sample ids, their own and their originals'; a file name that two parts hold keeps its part's name."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[str(row["stem"])] = counts.get(str(row["stem"]), 0) + 1
    names = []
    for row in rows:
        stem = str(row["stem"]) if counts[str(row["stem"])] == 1 else str(row["path"]).rsplit(".", 1)[0]
        names.append((str(row["method"]), stem))
    dataset = str(rows[0]["dataset"]) if rows else ""
    ids = sample_ids(dataset, names, [str(row["path"]) for row in rows])
    cleaned = [{key: value for key, value in row.items() if key != "stem"} for row in rows]
    reals = {f"dfdc/{row['stem']}": name for row, name in zip(rows, ids, strict=True) if row["label"] == REAL}
    originals = [reals.get(row["groups"][0], "") if row["label"] == FAKE else "" for row in rows]  # type: ignore[index]
    return [
        {**row, "sample_id": name, "original": original}
        for row, name, original in zip(cleaned, ids, originals, strict=True)
    ]


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
        check_fraction([label for label, _ in labels.values()], 0.6, 0.95, "metadata.csv")
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
