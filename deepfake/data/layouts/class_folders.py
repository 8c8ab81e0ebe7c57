"""Folders named after splits and classes: {train,valid,test}/{real,fake} or a bare {real,fake}. Opens no file.

Turns a user's own folders, and Kaggle's sets that are such folders, into samples, and tells from file names, where
these tell, which samples share footage."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from deepfake.data.layouts.base import (
    File,
    check_against_folders,
    child,
    has_file,
    inside,
    is_litter,
    list_files,
    list_folders,
    listed,
    sample_ids,
)
from deepfake.data.manifest import FAKE, REAL, Manifest, make_rows
from deepfake.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, kind_of
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError, printable

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
CLASS_FOLDERS = {REAL: ("real", "reals"), FAKE: ("fake", "fakes")}

#: Ten lower-case letters: the names that DFDC's videos and all crops made of them carry.
_DFDC = re.compile(r"^[a-z]{10}$")
_NUMBER = re.compile(r"^(?P<base>.+?)[_-](?P<number>\d+)$")


class ClassFolders:
    """Class folders, with or without split folders above them, holding files of one kind.

    Args:
        suffixes: What its files end in.
    """

    name: str
    summary: str
    suffixes: frozenset[str]

    def probe(self, root: Path) -> Path | None:
        """The folder that holds the split or class folders with files of this kind in them."""
        for folder in inside(root):
            if any(self._holds(folder, where) for _, where, _ in class_folders(folder)):
                return folder
        return None

    def _holds(self, root: Path, folder: str) -> bool:
        if has_file(root, folder, self.suffixes):
            return True
        return any(has_file(root / folder, name, self.suffixes) for name in list_folders(root / folder, 50)[:5])

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every file of the class folders and up to two levels below them."""
        notes: list[str] = []
        found = class_folders(root)
        _note_missing_class(root, found, notes)
        rows: list[dict[str, object]] = []
        for split, folder, label in found:
            for file in list_files(root, folder, self.suffixes, depth=2):
                rows.append(_row(file, folder, split, label, options.name))
        note_unknown_folders(root, found, notes)
        rows = name_rows(rows, options.name)
        set_groups(rows, options.name, notes)
        official = any(split for split, _, _ in found)
        return Manifest(make_rows(rows), {options.name: root}, notes, official=official)


def class_folders(root: Path) -> list[tuple[str, str, int]]:
    """The class folders below a root: split ("" where there are none), folder relative to the root, label."""
    found = []
    for split, names in SPLIT_FOLDERS.items():
        for name in names:
            above = child(root, name)
            if above is not None:
                found += _classes(root, above, split)
    return found or _classes(root, "", "")


def _classes(root: Path, above: str, split: str) -> list[tuple[str, str, int]]:
    found = []
    for label, names in CLASS_FOLDERS.items():
        folder = child(root / above, *names)
        if folder is not None:
            found.append((split, f"{above}/{folder}" if above else folder, label))
    return found


def _note_missing_class(root: Path, found: list[tuple[str, str, int]], notes: list[str]) -> None:
    """One class is enough to be scored; that training needs both is checked where the splits are known."""
    if not found:
        raise DataError(f"{root} needs a real and a fake folder; found neither", "sort the files into two such folders")
    if len({label for _, _, label in found}) == 1:
        there = ", ".join(folder for _, folder, _ in found)
        notes.append(f"{root} has only {there}: one class is enough to be scored, not to train on")


def _row(file: File, folder: str, split: str, label: int, dataset: str) -> dict[str, object]:
    below = file.path[len(folder) + 1 :]
    return {
        "path": file.path, "kind": kind_of(file.path), "label": label, "method": "fake" if label == FAKE else "real",
        "dataset": dataset, "bytes": file.bytes, "split": split,
        # Kept only while reading: what the sample is called, and the folder that may tell its footage.
        "stem": file.stem, "inner": below.rsplit("/", 1)[0] if "/" in below else "", "above": folder,
    }  # fmt: skip


def name_rows(rows: list[dict[str, object]], dataset: str) -> list[dict[str, object]]:
    """The rows with their sample ids: ``dataset/method/split/folder/stem``, empty parts left out."""
    names = []
    for row in rows:
        parts = [str(row[key]) for key in ("split", "inner", "stem") if row[key]]
        names.append((str(row["method"]), "/".join(parts)))
    ids = sample_ids(dataset, names, [str(row["path"]) for row in rows])
    return [{**row, "sample_id": name} for row, name in zip(rows, ids, strict=True)]


def set_groups(rows: list[dict[str, object]], dataset: str, notes: list[str]) -> None:
    """Give each row its groups, by DFDC's names, by folders of frames or by numbered names, else its own.

    Names such as ``real_1`` say nothing about footage and merge nothing.
    """
    if _group_by_dfdc_names(rows):
        notes.append("file names are DFDC's (fake_original_n): grouped by original")
    else:
        bases = _numbered_bases(rows)
        grouped = 0
        for row in rows:
            base = str(row["inner"]) or bases.get(str(row["stem"]), "")
            if base:
                row["groups"] = (printable(f"{dataset}/{base}"),)
                grouped += 1
            else:
                row["groups"] = (str(row["sample_id"]),)
        if grouped:
            count = len({row["groups"] for row in rows})
            notes.append(f"{grouped} files are frames of shared footage by their names or folders: {count} groups")
        else:
            notes.append("file names tell no shared footage: every file is a group of its own")
    for row in rows:
        for key in ("stem", "inner", "above"):
            row.pop(key, None)


def _group_by_dfdc_names(rows: list[dict[str, object]]) -> bool:
    """``original_n`` and ``fake_original_n``, where every word is ten letters; False if not all names are so."""
    groups = []
    for row in rows:
        words = str(row["stem"]).split("_")
        while words and words[-1].isdigit():
            words.pop()
        # A fake's own name stands before its original's.
        if not words or len(words) > 2 or not all(_DFDC.match(word) for word in words):
            return False
        groups.append((f"dfdc/{words[-1]}",))
    if not rows:
        return False
    for row, own in zip(rows, groups, strict=True):
        row["groups"] = own
    return True


def _numbered_bases(rows: list[dict[str, object]]) -> dict[str, str]:
    """What ``base_1, base_2`` share, by stem. A base that few words stand beside is a word, not a footage."""
    bases: dict[str, str] = {}
    for row in rows:
        match = _NUMBER.match(str(row["stem"]))
        if match:
            bases[str(row["stem"])] = match["base"]
    counts = Counter(bases[str(row["stem"])] for row in rows if str(row["stem"]) in bases)
    # Frames of footage: many bases, none of which holds a large part of the set.
    most = max(counts.values(), default=0)
    if len(counts) < 4 or most <= 1 or most > 0.3 * len(rows):
        return {}
    return {stem: base for stem, base in bases.items() if counts[base] > 1 and not base.isdigit()}


def note_unknown_folders(root: Path, found: list[tuple[str, str, int]], notes: list[str]) -> None:
    """Name the folders beside the ones that are read."""
    read = {folder.split("/", 1)[0] for _, folder, _ in found}
    unknown = [name for name in list_folders(root) if name not in read and not is_litter(name)]
    if unknown:
        notes.append(f"folders that are not read: {', '.join(unknown)}")


class Images(ClassFolders):
    """``{train,valid,test}/{real,fake}`` or ``{real,fake}``, in any case, with images below."""

    name = "images"
    summary = "{train,valid,test}/{real,fake} or {real,fake} with images below"
    crops = True
    suffixes = IMAGE_SUFFIXES


class Videos(ClassFolders):
    """``{train,valid,test}/{real,fake}`` or ``{real,fake}``, in any case, with videos below."""

    name = "videos"
    summary = "{train,valid,test}/{real,fake} or {real,fake} with videos below"
    crops = False
    suffixes = VIDEO_SUFFIXES


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
        """As class folders, which decide; the tables beside them are only compared with the folders."""
        manifest = super().read(root, options)
        columns = zip(manifest.table["path"], manifest.table["label"], strict=True)
        rows: list[dict[str, object]] = [{"path": path, "label": int(label)} for path, label in columns]
        for above in (root.parents[0], root.parents[1]):
            for name in ("train", "valid", "test"):
                if (above / f"{name}.csv").is_file():
                    inside = [row for row in rows if str(row["path"]).lower().startswith(f"{name}/")]
                    check_against_folders(_words(above / f"{name}.csv"), inside, f"{name}.csv")
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
                    "sample_id": sample_id, "path": file.path, "kind": kind_of(file.path), "label": label,
                    "method": method, "dataset": options.name, "bytes": file.bytes,
                }
                for sample_id, file, method in zip(ids, files, methods, strict=True)
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
