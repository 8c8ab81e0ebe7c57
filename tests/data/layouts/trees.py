"""Data sets as they unzip, as far as their names go: files of a few bytes that no layout opens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from deepfake.data.layouts import LAYOUTS
from deepfake.data.manifest import Manifest
from deepfake.data.options import DatasetOptions


def plant(root: Path, paths: Iterable[str]) -> Path:
    """Make files at these paths, folders included."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"pixels")
    return root


def write_json(path: Path, content: object) -> None:
    """A JSON file, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def read(layout: str, root: Path, **options: object) -> Manifest:
    """What a layout makes of a folder, from the place its probe finds."""
    begins = LAYOUTS[layout].probe(root)
    assert begins is not None, f"{layout} does not find itself in {root}"
    return LAYOUTS[layout].read(begins, DatasetOptions(**{"name": "set", "layout": layout, **options}))  # type: ignore[arg-type]


def by_stem(manifest: Manifest, column: str) -> dict[str, object]:
    """One column's values by the files' stems."""
    table: pd.DataFrame = manifest.table
    return dict(zip(table["path"].map(lambda p: Path(p).stem), table[column], strict=True))


def counts(manifest: Manifest) -> dict[int, int]:
    """Samples of each label."""
    return {int(k): int(v) for k, v in manifest.table["label"].value_counts().items()}
