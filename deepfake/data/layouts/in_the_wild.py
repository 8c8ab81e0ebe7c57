"""Sets of what people put on the web: FFIW (Zhou et al., CVPR 2021) and WildDeepfake (Zi et al., ACM Multimedia 2020).

Turns source and target folders of videos, and folders of face crops, into samples. In both, folders say the class.
"""

from __future__ import annotations

import re
from pathlib import Path

from deepfake.data.layouts.base import child, inside, list_files, list_folders, sample_ids
from deepfake.data.manifest import FAKE, REAL, SPLITS, Manifest, make_rows
from deepfake.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from deepfake.data.options import DatasetOptions


class Ffiw:
    """``source/val/videos/000.mp4`` and ``target/val/videos/000.mp4``: what a fake was made of, and the fake.

    Several faces are in most of its videos, of which one is fake.
    """

    name = "ffiw"
    summary = "source/ and target/ with train, val or test below (FFIW10K-v1-release)"
    crops = False

    def probe(self, root: Path) -> Path | None:
        """The folder that holds source and target, with a published part in one of them."""
        for folder in inside(root):
            source, target = child(folder, "source"), child(folder, "target")
            if source and target and (child(folder / source, *SPLITS) or child(folder / target, *SPLITS)):
                return folder
        return None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every video of the published parts; two of one name in both folders are one footage."""
        rows: list[dict[str, object]] = []
        notes: list[str] = []
        for folder, method, label in (("source", "real", REAL), ("target", "FFIW", FAKE)):
            above = child(root, folder) or folder
            for split in SPLITS:
                part = child(root / above, split)
                if part is None:
                    notes.append(f"{above} has no {split} part")
                    continue
                files = list_files(root, f"{above}/{part}", VIDEO_SUFFIXES, depth=1)
                ids = sample_ids(
                    options.name, [(method, f"{split}/{file.stem}") for file in files], [file.path for file in files]
                )
                rows += [
                    {
                        "sample_id": name, "path": file.path, "kind": "video", "label": label, "method": method,
                        "dataset": options.name, "bytes": file.bytes, "groups": (f"ffiw/{split}/{file.stem}",),
                        "split": split,
                    }
                    for name, file in zip(ids, files, strict=True)
                ]  # fmt: skip
        unknown = ["who is in FFIW's videos is named nowhere: the same person may be on both sides of the splits"]
        return Manifest(make_rows(rows), {options.name: root}, [*notes, *unknown], bool(rows), unknown)


_PART = re.compile(r"(?P<word>real|fake)_(?P<split>train|val|test)", re.IGNORECASE)


class WildDeepfake:
    """``real_test/12/real/3/0.png``: face crops of 224 pixels, by video and by sequence of a face's motion."""

    name = "wilddeepfake"
    summary = "real_train/, fake_train/, real_test/ and fake_test/ with face crops some folders below (WildDeepfake)"
    # Its pictures are faces already, cut out and aligned.
    crops = True

    def probe(self, root: Path) -> Path | None:
        """The folder that holds real_test and fake_test, or real_train and fake_train."""
        for folder in inside(root):
            if any(child(folder, f"real_{part}") and child(folder, f"fake_{part}") for part in ("train", "test")):
                return folder
        return None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every picture is a sample; those of one video, the number below the part, are one group."""
        rows: list[dict[str, object]] = []
        for folder in list_folders(root):
            match = _PART.fullmatch(folder)
            if match is None:
                continue
            word, split = match["word"].lower(), match["split"].lower()
            files = list_files(root, folder, IMAGE_SUFFIXES, depth=4)
            stems = [(word, file.path.partition("/")[2].rpartition(".")[0]) for file in files]
            ids = sample_ids(
                options.name, [(method, f"{split}/{stem}") for method, stem in stems], [f.path for f in files]
            )
            rows += [
                {
                    "sample_id": name, "path": file.path, "kind": "image", "label": FAKE if word == "fake" else REAL,
                    "method": word, "dataset": options.name, "bytes": file.bytes, "split": split,
                    "groups": (f"wilddeepfake/{word}/{split}/{stem.partition('/')[0]}",),
                }
                for name, file, (_, stem) in zip(ids, files, stems, strict=True)
            ]  # fmt: skip
        read = {name for name in list_folders(root) if _PART.fullmatch(name)}
        unread = [name for name in list_folders(root) if name not in read]
        notes = [f"folders that are not read: {', '.join(unread)}"] if unread else []
        return Manifest(make_rows(rows), {options.name: root}, notes, official=bool(rows))
