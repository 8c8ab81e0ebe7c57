"""Celeb-DF v1 and v2 (Li et al. 2020, arXiv:1909.12962): three folders of videos and a list of the test part; and
Celeb-DF++ (Li et al. 2025, arXiv:2507.18015), whose fakes lie in a folder of each of 22 methods.

Turns Celeb-real, Celeb-synthesis and YouTube-real into samples grouped by celebrity. In the list 1 means real.
"""

from __future__ import annotations

from pathlib import Path

from deepfake.data.layouts.base import child, inside, list_files, list_folders, listed, sample_ids
from deepfake.data.manifest import FAKE, REAL, Manifest, make_rows
from deepfake.data.media import VIDEO_SUFFIXES
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError, nearest

FOLDERS = {"Celeb-real": REAL, "Celeb-synthesis": FAKE, "YouTube-real": REAL}
LIST = "List_of_testing_videos.txt"
#: What the list's digits mean: the opposite of everywhere else.
_LISTED = {"1": REAL, "0": FAKE}


class CelebDf:
    """``Celeb-real/id0_0000.mp4``, ``Celeb-synthesis/id0_id1_0000.mp4``, ``YouTube-real/00000.mp4``."""

    name = "celebdf"
    summary = "Celeb-real/, Celeb-synthesis/ and YouTube-real/ with List_of_testing_videos.txt (Celeb-DF v1, v2)"
    crops = False

    def probe(self, root: Path) -> Path | None:
        """The folder that holds Celeb-synthesis or Celeb-real; not Celeb-DF++, which has the same."""
        for folder in inside(root):
            if _has_scenarios(folder):
                continue
            if child(folder, "Celeb-synthesis") or child(folder, "Celeb-real"):
                return folder
        return None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every video, with the listed ones as the test part and the others as the training part."""
        notes: list[str] = []
        rows: list[dict[str, object]] = []
        for method, label in FOLDERS.items():
            folder = child(root, method)
            if folder is None:
                notes.append(f"{method} is not there")
                continue
            rows += _rows(root, folder, method, label, options.name)
        test = _read_list(root, notes)
        _mark_test(rows, test, notes)
        _name_originals(rows)
        unknown = [n for n in list_folders(root) if n.lower() not in {f.lower() for f in FOLDERS}]
        if unknown:
            notes.append(f"folders that are not read: {listed(unknown)}")
        table = make_rows({k: v for k, v in row.items() if k != "stem"} for row in rows)
        return Manifest(table, {options.name: root}, notes, official=bool(test))


#: How Celeb-DF++ makes its fakes, and the folders of it that hold a folder for each method.
SCENARIOS = ("FaceSwap", "FaceReenact", "TalkingFace")


class CelebDfPp:
    """``Celeb-real``, ``YouTube-real`` and ``Celeb-synthesis/FaceSwap/BlendFace/id0_id1_0000.mp4``."""

    name = "celebdfpp"
    summary = f"Celeb-synthesis/{{{','.join(SCENARIOS)}}}/<method> beside Celeb-real/ and YouTube-real/ (Celeb-DF++)"
    crops = False

    def probe(self, root: Path) -> Path | None:
        """The folder whose Celeb-synthesis holds one of the three scenarios."""
        for folder in inside(root):
            if _has_scenarios(folder):
                return folder
        return None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every video of the wanted methods, with its ``scenario``; the listed ones are the test part."""
        notes: list[str] = []
        rows: list[dict[str, object]] = []
        for method, label in FOLDERS.items():
            folder = child(root, method)
            if folder is None:
                notes.append(f"{method} is not there")
            elif label == REAL:
                rows += [{**row, "scenario": ""} for row in _rows(root, folder, method, label, options.name)]
            else:
                rows += _fakes_by_method(root, folder, options)
        test = _listed_names(root, notes)
        for row in rows:
            row["split"] = ("test" if _place(str(row["path"])) in test else "train") if test else ""
        absent = sorted(test - {_place(str(row["path"])) for row in rows}) if options.methods is None else []
        if absent:
            notes.append(f"{LIST} names {len(absent)} of {len(test)} videos that are not there: {listed(absent)}")
        table = make_rows({key: value for key, value in row.items() if key != "stem"} for row in rows)
        return Manifest(table, {options.name: root}, notes, official=bool(test))


def _has_scenarios(folder: Path) -> bool:
    """Whether the fakes lie as Celeb-DF++ has them, in a folder of each scenario."""
    fakes = child(folder, "Celeb-synthesis")
    return fakes is not None and child(folder / fakes, *SCENARIOS) is not None


def _fakes_by_method(root: Path, folder: str, options: DatasetOptions) -> list[dict[str, object]]:
    there = {
        method: scenario
        for scenario in list_folders(root / folder)
        for method in list_folders(root / folder / scenario)
    }
    for name in options.methods or ():
        if name not in there:
            raise DataError(f"dataset.methods names {name!r}, which is not there", nearest(name, there))
    return [
        {**row, "scenario": scenario}
        for method, scenario in there.items()
        if options.methods is None or method in options.methods
        for row in _rows(root, f"{folder}/{scenario}/{method}", method, FAKE, options.name)
    ]


def _listed_names(root: Path, notes: list[str]) -> set[str]:
    """The published test part by its videos' places; classes are the folders'."""
    path = root / LIST
    if not path.is_file():
        notes.append(f"no {LIST}: splits are made by group")
        return set()
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {_place(line.partition(" ")[2].strip() if line[:2] in ("0 ", "1 ") else line) for line in lines if line}


def _place(path: str) -> str:
    """A video's path without the level that some tools put the videos into."""
    return "/".join(part for part in path.lower().split("/") if part != "videos")


def _rows(root: Path, folder: str, method: str, label: int, dataset: str) -> list[dict[str, object]]:
    # Some tools put the videos into a level of their own.
    files = list_files(root, folder, VIDEO_SUFFIXES, depth=1)
    ids = sample_ids(dataset, [(method, file.stem) for file in files], [file.path for file in files])
    return [
        {
            "sample_id": name, "path": file.path, "kind": "video", "label": label, "method": method,
            "dataset": dataset, "bytes": file.bytes, "groups": identities(file.stem), "stem": file.stem,
        }
        for name, file in zip(ids, files, strict=True)
    ]  # fmt: skip


def identities(stem: str) -> tuple[str, ...]:
    """Whom a video shows: ``id0_id1_0000`` touches celebrities 0 and 1; a YouTube video is its own."""
    people = [part for part in stem.split("_") if part.startswith("id")]
    return tuple(dict.fromkeys(f"celebdf/{part}" for part in people)) or (f"celebdf/youtube/{stem}",)


def _read_list(root: Path, notes: list[str]) -> dict[str, int]:
    """Label by lower-case ``folder/file`` of the published test part; it has no header."""
    path = root / LIST
    if not path.is_file():
        notes.append(f"no {LIST}: splits are made by group")
        return {}
    listing = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        digit, _, name = line.strip().partition(" ")
        if not digit:
            continue
        if digit not in _LISTED or not name:
            raise DataError(f"{path} line {number} is {line!r}", "lines are '1 folder/file' (real) or '0 folder/file'")
        listing[name.strip().lower()] = _LISTED[digit]
    return listing


def _mark_test(rows: list[dict[str, object]], test: dict[str, int], notes: list[str]) -> None:
    if not test:
        return
    there = set()
    wrong = 0
    for row in rows:
        parts = str(row["path"]).lower().split("/")
        key = f"{parts[0]}/{parts[-1]}"
        row["split"] = "test" if key in test else "train"
        if key in test:
            there.add(key)
            wrong += test[key] != row["label"]
    if wrong > len(there) / 2:
        raise DataError(
            f"{LIST} gives {wrong} of {len(there)} videos the label opposite to their folder's",
            "in the published list 1 means real and 0 means fake",
        )
    absent = sorted(set(test) - there)
    if absent:
        notes.append(f"{LIST} names {len(absent)} of {len(test)} videos that are not there: {listed(absent)}")


def _name_originals(rows: list[dict[str, object]]) -> None:
    """``id0_id1_0003`` was made from ``id0_0003``: the face is in the same place in both."""
    reals = {str(row["stem"]): str(row["sample_id"]) for row in rows if row["method"] == "Celeb-real"}
    for row in rows:
        parts = str(row["stem"]).split("_")
        source = f"{parts[0]}_{parts[-1]}" if row["label"] == FAKE and len(parts) == 3 else ""
        row["original"] = reals.get(source, "")
