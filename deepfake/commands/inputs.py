"""What a user names to be looked at (files, folders, globs) to files in order, each with its kind. Opens none."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfake.data.layouts.base import kind_of, list_files
from deepfake.data.manifest import IMAGE_SUFFIXES, VIDEO_SUFFIXES

_DEPTH = 20  # folders below the one named; a link in a circle must end somewhere
_KNOWN = VIDEO_SUFFIXES | IMAGE_SUFFIXES


@dataclass(frozen=True)
class Input:
    """One file to be looked at, or a name that leads to none.

    Attributes:
        path: Where it is said to lie.
        kind: ``video`` or ``image``; empty where it cannot be looked at.
        reason: Why it cannot, in a word: ``not_found``, ``nothing_inside`` or ``unsupported``; empty where it can.
        detail: The same for people.
    """

    path: Path
    kind: str = ""
    reason: str = ""
    detail: str = ""


def expand_inputs(named: Sequence[str]) -> list[Input]:
    """Every file that is meant, in the order named; a folder's and a glob's by name."""
    return [found for text in named for found in _expand(text)]


def _expand(text: str) -> Iterator[Input]:
    path = Path(text).expanduser()
    if path.is_dir():
        inside = list_files(path, "", _KNOWN, _DEPTH)
        if not inside:
            yield Input(path, reason="nothing_inside", detail="the folder holds no video and no image")
        yield from (_file(path / file.path) for file in inside)
    elif path.exists():
        yield _file(path)
    elif glob.has_magic(text):
        matches = sorted(Path(found) for found in glob.glob(str(path), recursive=True))
        files = [found for found in matches if found.is_file()]
        if not files:
            yield Input(path, reason="not_found", detail="no file matches")
        yield from map(_file, files)
    else:
        yield Input(path, reason="not_found", detail="there is no such file or folder")


def _file(path: Path) -> Input:
    kind = kind_of(path.name)
    if not kind:
        return Input(path, reason="unsupported", detail="neither a video nor an image, by its name")
    return Input(path, kind)
