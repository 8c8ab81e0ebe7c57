"""The table of samples: its columns, its checks, its digest. Knows where files are said to be; opens none."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from deepfake.errors import DataError

REAL, FAKE = 0, 1
SPLITS = ("train", "val", "test")

#: What every manifest holds, in this order; layouts may add columns of their own behind.
COLUMNS = ("sample_id", "path", "kind", "label", "method", "groups", "split", "dataset", "bytes", "sha256")


@dataclass
class Manifest:
    """One row per sample, a video or an image.

    Attributes:
        table: The columns of :data:`COLUMNS`. ``path`` is relative to the data set's root, with forward
            slashes, as :func:`written_path` writes it; ``label`` is 1 for fake, always; ``groups`` is a tuple of
            the source footages or identities the sample touches; ``split`` is train, val, test or empty;
            ``sha256`` may be empty.
        roots: The folder each ``dataset`` lies in.
        notes: What was noticed while reading: what is missing, unknown, moved or carved. Told to the user.
        official: Whether the splits are published ones, whose overlaps are reported rather than refused.
        unknown: What no name in the set tells, so that splits may share it unseen. Told by the audit as well.
    """

    table: pd.DataFrame
    roots: dict[str, Path]
    notes: list[str] = field(default_factory=list)
    official: bool = False
    unknown: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.table)

    def file(self, dataset: str, path: str) -> Path:
        """Where a row's file lies on this machine."""
        return self.roots[dataset] / plain_path(path)

    def split(self, name: str) -> pd.DataFrame:
        """The rows of one split, in the manifest's order."""
        return self.table[self.table["split"] == name]

    def digest(self) -> str:
        """A SHA-256 of what was selected: identities, labels and splits, not where the files lie."""
        columns = self.table[["sample_id", "label", "split", "bytes"]]
        return hashlib.sha256(columns.to_csv(index=False).encode("utf-8", "surrogateescape")).hexdigest()

    def content_digest(self) -> str:
        """A SHA-256 of what was selected and of the files' content, as far as it is known; see :meth:`digest`."""
        columns = self.table[["sample_id", "label", "split", "bytes", "sha256"]]
        return hashlib.sha256(columns.to_csv(index=False).encode("utf-8", "surrogateescape")).hexdigest()


def make_rows(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    """A table of :data:`COLUMNS` from partial rows, sorted by ``sample_id`` so that disk order never matters.

    Args:
        rows: Each with at least ``sample_id``, ``path``, ``kind``, ``label``, ``method`` and ``dataset``;
            ``groups`` defaults to the sample alone, ``split`` and ``sha256`` to empty, ``bytes`` to -1.
    """
    defaults: dict[str, object] = {"split": "", "bytes": -1, "sha256": ""}
    filled = [{**defaults, **row, "path": written_path(str(row["path"]))} for row in rows]
    for row in filled:
        row.setdefault("groups", (row["sample_id"],))
    extra = [c for c in dict.fromkeys(key for row in filled for key in row) if c not in COLUMNS]
    table = pd.DataFrame(filled, columns=[*COLUMNS, *extra])
    table["label"] = table["label"].astype("int8")
    table["bytes"] = table["bytes"].astype("int64")
    return table.sort_values("sample_id", kind="stable", ignore_index=True)


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest that would train on a mistake.

    Raises:
        DataError: No rows, doubled sample ids or paths, labels other than 0 and 1, or unknown split names.
    """
    table = manifest.table
    where = ", ".join(str(root) for root in manifest.roots.values())
    if table.empty:
        raise DataError(f"no samples found in {where}", "check dataset.root, dataset.methods and dataset.compression")
    for column in ("sample_id", "path"):
        keys = table[column] if column == "sample_id" else table["dataset"] + ":" + table["path"]
        doubled = table[keys.duplicated(keep=False)]
        if not doubled.empty:
            raise DataError(
                f"two rows have one {column}: {doubled[column].iloc[0]!r} ({len(doubled)} rows in all)",
                "keep one row per file; remove the repeated ones from the table",
            )
    if not table["label"].isin([REAL, FAKE]).all():
        raise DataError(f"labels other than 0 and 1: {sorted(set(table['label']))}", "0 is real and 1 is fake")
    unknown = set(table["split"]) - {*SPLITS, ""}
    if unknown:
        raise DataError(f"unknown split names: {sorted(unknown)}", "use train, val and test")


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Write the table as Parquet or CSV, by the file's suffix; groups become a semicolon list in CSV.

    With paths as :func:`rooted_table` gives them, the table layout reads it back as the same samples.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        flat = manifest.table.assign(groups=manifest.table["groups"].map(_semicolons))
        flat.to_csv(path, index=False)
    else:
        manifest.table.assign(groups=manifest.table["groups"].map(list)).to_parquet(path, index=False)


def _semicolons(groups: tuple[str, ...]) -> str:
    return ";".join(group.replace(";", "\\;") for group in groups)


def rooted_table(manifest: Manifest, root: Path | None) -> pd.DataFrame:
    """The table with paths relative to one folder, whichever folder below or above it the layout begins in.

    Args:
        manifest: One data set, or several in folders of their own.
        root: The folder; None makes paths absolute.
    """

    def rooted(dataset: str, path: str) -> str:
        file = os.path.abspath(manifest.file(dataset, path))
        return written_path(file if root is None else os.path.relpath(file, os.path.abspath(root)))

    columns = zip(manifest.table["dataset"], manifest.table["path"], strict=True)
    return manifest.table.assign(path=[rooted(dataset, path) for dataset, path in columns])


def written_path(path: str) -> str:
    """A file's path as tables hold it: bytes that are no UTF-8 as ``\\xe9``, a backslash doubled."""
    return "".join(_written(char) for char in path)


def plain_path(path: str) -> str:
    """The path that :func:`written_path` was given, with surrogate escapes, as the operating system takes it."""
    return re.sub(r"\\(?:x([0-9a-f]{2})|\\)", lambda m: chr(0xDC00 + int(m[1], 16)) if m[1] else "\\", path)


def _written(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:
        return f"\\x{ord(char) - 0xDC00:02x}"
    return "\\\\" if char == "\\" else char
