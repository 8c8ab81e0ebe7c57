"""``deepfake datasets [ROOT]``: which data sets are known, and which of them lie under a folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from rich.table import Table
from rich.text import Text

from deepfake.data.layouts import LAYOUTS, find_layouts
from deepfake.data.layouts.base import has_file
from deepfake.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from deepfake.errors import DataError, harmless
from deepfake.runs.console import Console

#: Folders looked into below the one that is named: a disk may hold far more than data sets.
DEPTH = 2
#: The same with those that hold nothing but one other, such as real_vs_fake/real-vs-fake.
MOST = 8

EXAMPLES = (
    ("deepfake datasets", "the layouts that are known"),
    ("deepfake datasets /data", "those found at or below /data"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A folder, or nothing."""
    parser.add_argument("root", nargs="?", type=Path, help="look for data sets in this folder and below")


def main(arguments: argparse.Namespace) -> int:
    """Print what is known, or what was found."""
    console = Console()
    if arguments.root is None:
        table = Table("dataset=", "what is looked for", title="known data sets", title_justify="left")
        for layout in LAYOUTS.values():
            table.add_row(layout.name, layout.summary)
        console.table(table)
        return 0
    root = arguments.root.expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {root}", "name the folder your data sets lie in")
    table = Table("folder", "dataset=", "what was found", title=f"data sets in {root}", title_justify="left")
    claimed: set[Path] = set()
    for folder, name, summary in found_below(root):
        claimed.add(folder)
        table.add_row(Text(harmless(str(folder))), name, summary)
    for folder, what in unlabelled(root, claimed):
        table.add_row(
            Text(harmless(str(folder))), "-", f"{what} without labels: list them in a table for dataset=table"
        )
    if not table.row_count:
        raise DataError(f"no known data set in {root}", f"known are {', '.join(LAYOUTS)}; see deepfake datasets")
    console.table(table)
    return 0


def found_below(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Each data set at or below a folder: where, its layout's name, what told it."""
    claimed: set[Path] = set()
    for folder in _folders(root, DEPTH):
        if any(folder == place or place in folder.parents for place in claimed):
            continue
        layouts = [(layout, begins) for layout, begins in find_layouts(folder) if begins not in claimed]
        # A folder that holds data sets is not itself one because a data set below it is.
        here = [(layout, begins) for layout, begins in layouts if begins == folder]
        if here:
            layout, begins = here[0]
            claimed.add(begins)
            yield begins, layout.name, layout.summary


def unlabelled(root: Path, claimed: Collection[Path]) -> Iterator[tuple[Path, str]]:
    """Each folder with videos or images of its own that belong to no data set that was found: where, and what."""
    for folder in _folders(root, DEPTH):
        if any(place == folder or place in folder.parents for place in claimed):
            continue
        for suffixes, what in ((VIDEO_SUFFIXES, "videos"), (IMAGE_SUFFIXES, "images")):
            if has_file(folder, "", suffixes):
                yield folder, what


def _folders(root: Path, depth: int, most: int = MOST) -> Iterator[Path]:
    yield root
    inside = sorted(entry.path for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    # What holds nothing but one folder, as archives unzip, is no level of its own.
    below = depth - (len(inside) != 1)
    if below >= 0 and most:
        for path in inside:
            yield from _folders(Path(path), below, most - 1)
