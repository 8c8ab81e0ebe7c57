"""Files told by their content: those of a known manifest found again below a folder, whatever they are called now.

Opens files to read their bytes; knows no layout and decodes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from deepfake.data.manifest import Manifest, plain_path, written_path
from deepfake.data.prepare_worker import stamp
from deepfake.progress import Progress, bar

_THREADS = 8


@dataclass(frozen=True)
class Found:
    """What was found of a manifest's files.

    Attributes:
        manifest: The samples whose files are there, under their names of now; what lies at a sample's old place with
            another content is among them.
        renamed: Old path to new one, of the files that were known by their digest alone.
        missing: Rows of the samples of which there is nothing: sample_id, path, sha256.
    """

    manifest: Manifest
    renamed: dict[str, str]
    missing: pd.DataFrame


def find_files(then: pd.DataFrame, roots: Mapping[str, Path], progress: Progress | None = None) -> Found:
    """Look for the files of a manifest below folders, by their digests.

    Args:
        then: A manifest's table; samples without a ``sha256`` are looked up by their path alone.
        roots: The folder to look in for each data set.
        progress: Told of every file that is read.
    """
    sizes = set(then.loc[then["sha256"] != "", "bytes"])
    places = sorted({Path(os.path.abspath(root)) for root in roots.values()})
    by_digest = _digests(places, sizes, progress)
    taken: set[Path] = set()
    rows, paths, renamed, lost = [], [], {}, []
    # A file that still lies where it lay is that sample's; what is left goes to those that are not.
    order = then.assign(_moved=[not _stays(row, roots, by_digest) for row in then.itertuples()])
    for row in order.sort_values("_moved", kind="stable").itertuples():
        root = Path(os.path.abspath(roots[str(row.dataset)]))
        old = root / plain_path(str(row.path))
        same = by_digest.get(str(row.sha256), []) if row.sha256 else []
        file = old if old in same else next((one for one in same if one not in taken), same[0] if same else None)
        if file is None and old.is_file():
            file = old
        if file is None:
            lost.append(row.Index)
            continue
        taken.add(file)
        now = written_path(Path(os.path.relpath(file, root)).as_posix())
        if now != row.path:
            renamed[str(row.path)] = now
        rows.append(row.Index)
        paths.append(now)
    kept = then.loc[rows].assign(path=paths).sort_values("sample_id", kind="stable", ignore_index=True)
    missing = then.loc[lost, ["sample_id", "path", "sha256"]].reset_index(drop=True)
    return Found(Manifest(kept, {name: Path(os.path.abspath(root)) for name, root in roots.items()}), renamed, missing)


def with_facts(manifest: Manifest, facts: Mapping[str, tuple[int, str]]) -> Manifest:
    """The manifest with sizes and digests of some samples exchanged.

    Args:
        manifest: Whose other samples stay as they are.
        facts: Bytes and SHA-256 by sample id.
    """
    table = manifest.table
    columns = zip(table["sample_id"], table["bytes"], table["sha256"], strict=True)
    given = [facts.get(str(name), (int(size), str(digest))) for name, size, digest in columns]
    sizes = pd.Series([size for size, _ in given], table.index, dtype="int64")
    digests = pd.Series([digest for _, digest in given], table.index, dtype=object)
    return replace(manifest, table=table.assign(bytes=sizes, sha256=digests))


def _stays(row: object, roots: Mapping[str, Path], by_digest: Mapping[str, list[Path]]) -> bool:
    root = Path(os.path.abspath(roots[str(row.dataset)]))  # type: ignore[attr-defined]
    return root / plain_path(str(row.path)) in by_digest.get(str(row.sha256), [])  # type: ignore[attr-defined]


def _digests(places: Iterable[Path], sizes: set[int], progress: Progress | None) -> dict[str, list[Path]]:
    """The files of these sizes by their digest."""
    files = [file for place in places for file in _files(place, sizes)]
    found: dict[str, list[Path]] = {}
    with bar(progress, len(files), "looking for files") as looked, ThreadPoolExecutor(_THREADS) as pool:
        for file, facts in zip(files, pool.map(stamp, files), strict=True):
            found.setdefault(str(facts["sha256"]), []).append(file)
            looked.advance()
    found.pop("", None)
    return found


def _files(place: Path, sizes: set[int]) -> Iterator[Path]:
    """Only what has the size of a file that is looked for is worth reading."""
    for folder, folders, names in os.walk(place):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            try:
                if file.stat().st_size in sizes:
                    yield file
            except OSError:
                continue
