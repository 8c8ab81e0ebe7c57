"""A manifest with the SHA-256 of every file, from the crop store where it is known there. Decodes nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd

from deepfake.data.crops import Progress
from deepfake.data.manifest import Manifest
from deepfake.data.part import Record
from deepfake.data.work import stamp

_THREADS = 8


def known_digests(manifest: Manifest, records: Mapping[str, Record]) -> Manifest:
    """The manifest with the digests that a store noted when it read the files; no file is read.

    Args:
        manifest: Its own digests are kept.
        records: By sample id, of a store that was prepared from these files.
    """
    found = [
        own or str(records.get(name, {}).get("sha256", ""))
        for name, own in zip(manifest.table["sample_id"], manifest.table["sha256"], strict=True)
    ]
    return replace(manifest, table=manifest.table.assign(sha256=pd.Series(found, manifest.table.index, dtype=object)))


def digest_files(manifest: Manifest, records: Mapping[str, Record], progress: Progress | None = None) -> Manifest:
    """The manifest with the size and digest of every file as it is now; a missing one has -1 bytes and none.

    Args:
        manifest: Whose files; what it says of their content is not believed.
        records: By sample id: a file of a record's size and time of change is not read again.
        progress: Told of every file.
    """
    rows = manifest.table[["sample_id", "dataset", "path"]].itertuples(index=False)
    files = [(str(row.sample_id), manifest.file(str(row.dataset), str(row.path))) for row in rows]
    if progress is not None:
        progress.start(len(files), "comparing files")
    found = []
    try:
        # Reading and hashing both let other threads work.
        with ThreadPoolExecutor(_THREADS) as pool:
            for facts in pool.map(lambda pair: _facts(pair[1], records.get(pair[0])), files):
                found.append(facts)
                if progress is not None:
                    progress.advance()
    finally:
        if progress is not None:
            progress.stop()
    table = manifest.table.assign(
        bytes=pd.Series([facts["bytes"] for facts in found], manifest.table.index, dtype="int64"),
        sha256=pd.Series([facts["sha256"] for facts in found], manifest.table.index, dtype=object),
    )
    return replace(manifest, table=table)


def _facts(file: Path, record: Record | None) -> Record:
    if record is not None:
        try:
            facts = os.stat(file)
        except OSError:
            return stamp(file)
        if record["sha256"] and (facts.st_size, facts.st_mtime_ns) == (record["bytes"], record["mtime"]):
            return record
    return stamp(file)
