"""The preview of DFDC (Dolhansky et al. 2019, arXiv:1910.08854): two methods, and one dataset.json that names all.

Turns method_A, method_B and original_videos into samples grouped by the people that their names tell.
"""

from __future__ import annotations

from pathlib import Path

from deepfake.data.layouts.base import File, child, inside, list_files, listed, read_json, sample_ids
from deepfake.data.manifest import FAKE, REAL, Manifest, make_rows
from deepfake.data.media import VIDEO_SUFFIXES
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError

LISTING = "dataset.json"
REALS = "original_videos"
_WORDS = {"real": REAL, "fake": FAKE}
_SPLITS = ("train", "test")
_HINT = f'{LISTING} is {{"method_A/1/x.mp4": {{"label": "fake", "set": "train"}}, ...}}'


class Dfdcp:
    """``dataset.json`` beside ``method_A``, ``method_B`` and ``original_videos``."""

    name = "dfdcp"
    summary = f"{LISTING} beside method_A/, method_B/ and {REALS}/ (DFDC's preview)"
    crops = False

    def probe(self, root: Path) -> Path | None:
        """The folder that holds dataset.json and a method's folder or the originals'."""
        for folder in inside(root):
            if (folder / LISTING).is_file() and child(folder, REALS, "method_A", "method_B"):
                return folder
        return None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every video that is there and listed; the published training part has no validation part, which is made."""
        notes: list[str] = []
        entries = _read_listing(root / LISTING)
        found: dict[str, File] = {}
        for folder in sorted({key.partition("/")[0] for key in entries}):
            # Some tools put the videos into a level of their own; a file's name is unique below its first folder.
            files = list_files(root, child(root, folder) or folder, VIDEO_SUFFIXES, depth=4)
            found |= {f"{folder}/{file.path.rsplit('/', 1)[-1]}": file for file in files}
        there = {key: found[key] for key in entries if key in found}
        absent = sorted(set(entries) - set(there))
        if absent:
            notes.append(f"{LISTING} names {len(absent)} of {len(entries)} files that are not there: {listed(absent)}")
        unnamed = sorted(set(found) - set(there))
        if unnamed:
            notes.append(f"{len(unnamed)} files that {LISTING} does not name are left out: {listed(unnamed)}")
        methods = ["real" if key.startswith(REALS) else key.partition("/")[0] for key in there]
        names = [(method, file.stem) for method, file in zip(methods, there.values(), strict=True)]
        ids = sample_ids(options.name, names, [file.path for file in there.values()])
        rows: list[dict[str, object]] = [
            {
                "sample_id": name, "path": file.path, "kind": "video", "label": entries[key][0], "method": method,
                "dataset": options.name, "bytes": file.bytes, "groups": people(file.stem), "split": entries[key][1],
            }
            for name, method, (key, file) in zip(ids, methods, there.items(), strict=True)
        ]  # fmt: skip
        return Manifest(make_rows(rows), {options.name: root}, notes, official=bool(rows))


def people(stem: str) -> tuple[str, ...]:
    """Whom a video shows: of ``1_2_A_003`` person 1's face on person 2, of ``2_A_003`` person 2 alone."""
    # What stands last is a number of the video's own.
    found = [part for part in stem.split("_")[:-1] if part.isdigit()]
    return tuple(dict.fromkeys(f"dfdcp/{part}" for part in found)) or (f"dfdcp/video/{stem}",)


def _read_listing(path: Path) -> dict[str, tuple[int, str]]:
    """Label and split by ``first folder/file name``."""
    loaded = read_json(path, _HINT)
    if not isinstance(loaded, dict):
        raise DataError(f"{path} holds no table of files", _HINT)
    entries = {}
    for name, entry in loaded.items():
        given = entry if isinstance(entry, dict) else {}
        label, split = given.get("label"), given.get("set")
        if label not in _WORDS or split not in _SPLITS:
            raise DataError(f"{path} gives {name} the label {label!r} and the set {split!r}", _HINT)
        entries[f"{name.partition('/')[0]}/{name.rsplit('/', 1)[-1]}"] = (_WORDS[label], split)
    return entries
