"""A user's own table: a CSV or Parquet file with a path and a label for each sample.

Turns its rows into samples, in the forms of labels people write. A table that ``deepfake prepare --manifest`` wrote
gives the very samples it was written of. Opens no video or image.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from deepfake.data.layouts.base import check_paths, listed, note_names, sample_ids
from deepfake.data.layouts.class_folders import SPLIT_FOLDERS
from deepfake.data.manifest import COLUMNS, FAKE, REAL, Manifest, make_rows, plain_path
from deepfake.data.media import kind_of
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError, nearest, printable

SUFFIXES = (".csv", ".parquet")
#: What a column may be called where ``dataset.columns`` does not say.
NAMES = {
    "path": ("path", "file", "filename", "filepath", "file_path", "file path", "image", "video"),
    "label": ("label", "class", "target", "is_fake"),
    "group": ("group", "groups", "identity", "person", "source", "original"),
    "split": ("split", "set", "partition", "subset"),
    "method": ("method", "manipulation", "generator"),
}
LABELS = {
    "0": REAL, "0.0": REAL, "real": REAL, "false": REAL, "original": REAL, "genuine": REAL,
    "1": FAKE, "1.0": FAKE, "fake": FAKE, "true": FAKE, "manipulated": FAKE, "deepfake": FAKE,
}  # fmt: skip


class Table:
    """One row per sample; 1, fake and true are fake, 0, real and false are real."""

    name = "table"
    summary = "a .csv or .parquet file with a path and a label column (dataset.table=FILE)"
    crops = False

    def probe(self, root: Path) -> Path | None:
        """The root, if exactly one table with such columns lies right in it."""
        if root.is_file():
            return root.parent if root.suffix in SUFFIXES else None
        return root if _single_table(root) else None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every row whose file is there; the others are counted and listed."""
        file = _table_file(root, options)
        raw = read_table(file)
        columns = _choose_columns(raw, options, file)
        notes: list[str] = []
        written = _is_manifest(raw)
        texts = [plain_path(str(path)) if written else _slashes(str(path)) for path in raw[columns["path"]]]
        paths = [_relative(text, root, file) for text in texts]
        _refuse_doubles(paths, raw, columns["path"], file)
        labels = [parse_label(v, f"{file.name} row {i + 2}") for i, v in enumerate(raw[columns["label"]])]
        check_paths(paths, labels, file.name)
        note_names(paths, labels, file.name, notes)
        rows = _rows(raw, columns, paths, labels, root, options, notes)
        if not rows:
            raise DataError(
                f"none of the {len(raw)} files that {file.name} names is there, such as {printable(paths[0])!r}"
                if paths
                else f"{file.name} has no rows",
                f"paths are taken relative to {root}; set dataset.root to their folder",
            )
        if written:
            rows = _as_written(rows, raw, paths)
        table = make_rows(rows)
        roots = dict.fromkeys(sorted(set(table["dataset"])), root)
        return Manifest(table, roots, notes, official=bool((table["split"] != "").any()))


def read_table(file: Path) -> pd.DataFrame:
    """The rows of a CSV (everything as text) or Parquet file.

    Raises:
        DataError: It is neither, or cannot be read.
    """
    if not file.is_file():
        raise DataError(f"there is no table {file}", "set dataset.table to a .csv or .parquet file")
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        return pd.read_csv(file, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
    except (ValueError, OSError) as error:
        raise DataError(f"{file} cannot be read as a table: {error}", "give a .csv or .parquet file") from error


def parse_label(value: object, where: str) -> int:
    """0 or 1 from one of the known forms.

    Args:
        value: Such as 1, "FAKE", "real" or True; 1 is fake.
        where: What to call the row in an error.

    Raises:
        DataError: The form is not known.
    """
    text = str(value).strip().lower()
    if text not in LABELS:
        raise DataError(
            f"{where}: {value!r} is no known label", "use 0, real or false for real and 1, fake or true for fake"
        )
    return LABELS[text]


def _table_file(root: Path, options: DatasetOptions) -> Path:
    if options.table is not None:
        given = Path(options.table).expanduser()
        return given if given.is_absolute() or given.exists() else root / given
    if root.is_file():
        return root
    single = _single_table(root)
    if single is None:
        raise DataError(f"{root} holds no single table with a path and a label column", "name it: dataset.table=FILE")
    return single


def _single_table(root: Path) -> Path | None:
    if not root.is_dir():
        return None
    found = sorted(p for p in root.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
    fitting = [p for p in found[:20] if {"path", "label"} <= set(match_columns(_header(p), {}))]
    return fitting[0] if len(fitting) == 1 else None


def _header(file: Path) -> list[str]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as parquet

        try:
            return list(parquet.read_schema(file).names)
        except (ValueError, OSError):
            return []
    with file.open(encoding="utf-8", errors="surrogateescape") as stream:
        return [name.strip().strip('"') for name in stream.readline().lstrip("\ufeff").split(",")]


def match_columns(header: list[str], given: dict[str, str]) -> dict[str, str]:
    """Which column plays each part: as given, else by a usual name whatever its case."""
    lower = {str(name).lower(): str(name) for name in reversed(header)}
    found = {part: lower[name] for part, names in NAMES.items() for name in reversed(names) if name in lower}
    return {**found, **given}


def _choose_columns(raw: pd.DataFrame, options: DatasetOptions, file: Path) -> dict[str, str]:
    header = [str(name) for name in raw.columns]
    for part, name in (options.columns or {}).items():
        if part not in NAMES:
            raise DataError(f"dataset.columns names {part!r}, which no table has", nearest(part, NAMES))
        if name not in header:
            raise DataError(f"{file.name} has no column {name!r} for {part}", nearest(name, header))
    columns = match_columns(header, options.columns or {})
    for part in ("path", "label"):
        if part not in columns:
            raise DataError(
                f"{file.name} has no {part} column; its columns are {', '.join(header)}",
                f"say which it is: dataset.columns={{{part}: NAME}}",
            )
    return columns


def _is_manifest(raw: pd.DataFrame) -> bool:
    """Whether a table has every column of a manifest: it was written by us."""
    return set(COLUMNS) <= set(raw.columns)


def _as_written(rows: list[dict[str, object]], raw: pd.DataFrame, paths: list[str]) -> list[dict[str, object]]:
    """The rows with the names that the manifest itself gave to samples, their groups, data sets and originals."""
    place = {path: i for i, path in enumerate(paths)}
    names = {key: [str(value) for value in raw[key]] for key in ("sample_id", "dataset", "original") if key in raw}
    groups = [tuple(_group_names(value)) for value in raw["groups"]]
    return [
        {**row, **{key: column[i] for key, column in names.items()}, "groups": groups[i]}
        for row, i in ((row, place[str(row["path"])]) for row in rows)
    ]


def _group_names(value: object) -> list[str]:
    """The groups of one row: a list as Parquet holds it, or words with semicolons between them (``\\;`` is no end)."""
    if isinstance(value, (list, tuple, np.ndarray)):
        names = [str(group) for group in value]
    else:
        names = [group.replace("\\;", ";") for group in re.split(r"(?<!\\);", str(value))]
    return [name.strip() for name in names if name.strip()]


def _slashes(path: str) -> str:
    return path.strip().replace("\\", "/")


def _relative(text: str, root: Path, file: Path) -> str:
    if os.path.isabs(text):
        return Path(os.path.relpath(text, root)).as_posix()
    # os.path says no to names that no file can have, where a path raises.
    if not os.path.exists(root / text) and os.path.exists(file.parent / text):
        return Path(os.path.relpath(file.parent / text, root)).as_posix()
    return str(PurePosixPath(text))


def _refuse_doubles(paths: list[str], raw: pd.DataFrame, column: str, file: Path) -> None:
    seen: dict[str, int] = {}
    for i, path in enumerate(paths):
        if path in seen:
            raise DataError(
                f"{file.name} rows {seen[path] + 2} and {i + 2} have one {column}: {printable(path)!r}",
                "keep one row per file",
            )
        seen[path] = i


def _rows(
    raw: pd.DataFrame,
    columns: dict[str, str],
    paths: list[str],
    labels: list[int],
    root: Path,
    options: DatasetOptions,
    notes: list[str],
) -> list[dict[str, object]]:
    values = {part: [str(v).strip() for v in raw[name]] for part, name in columns.items()}
    # What else the table says of a sample goes along, for breakdowns by it.
    more = [name for name in raw.columns if name not in (*columns.values(), *COLUMNS, "original")]
    extra = {str(name): [str(v).strip() for v in raw[name]] for name in more}
    methods = [
        m or ("fake" if y else "real") for m, y in zip(values.get("method", [""] * len(raw)), labels, strict=True)
    ]
    ids = sample_ids(options.name, [(m, os.path.splitext(p)[0]) for m, p in zip(methods, paths, strict=True)], paths)
    rows: list[dict[str, object]] = []
    absent, odd = [], []
    for i, path in enumerate(paths):
        file = root / path
        if not os.path.isfile(file):
            absent.append(path)
            continue
        if not kind_of(path):
            odd.append(path)
            continue
        row: dict[str, object] = {
            "sample_id": ids[i], "path": path, "kind": kind_of(path), "label": labels[i], "method": methods[i],
            "dataset": options.name, "bytes": file.stat().st_size,
        }  # fmt: skip
        if "split" in values:
            row["split"] = _split(values["split"][i], f"row {i + 2}")
        named = _group_names(raw[columns["group"]].iloc[i]) if "group" in columns else []
        row["groups"] = tuple(f"{options.name}/{g}" for g in named) or (ids[i],)
        row |= {name: column[i] for name, column in extra.items()}
        rows.append(row)
    if absent:
        notes.append(f"{len(absent)} of {len(paths)} files that the table names are not there: {listed(absent)}")
    if odd:
        notes.append(f"{len(odd)} files are neither videos nor images by their names: {listed(odd)}")
    return rows


def _split(value: str, where: str) -> str:
    lower = value.lower()
    if not lower or lower == "nan":
        return ""
    for split, names in SPLIT_FOLDERS.items():
        if lower in names:
            return split
    known = [name for names in SPLIT_FOLDERS.values() for name in names]
    raise DataError(f"{where}: {value!r} is no known split", nearest(lower, known))
