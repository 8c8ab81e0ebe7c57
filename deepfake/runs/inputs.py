"""What is named on a command line to the videos and images that are meant. Opens none of them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deepfake.data.layouts.base import list_files, walk_folders
from deepfake.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from deepfake.errors import UserError
from deepfake.reading.file_answers import Input, named_file, nothing_there

_DEPTH = 20  # folders below the one named
_KNOWN = VIDEO_SUFFIXES | IMAGE_SUFFIXES


#: What is typed of data, scoring and the machine among names of files.
#: A change of a run that is typed beside files.
OVERRIDE = re.compile(r"(dataset|evaluation|trainer|tracking|paths)\.[\w.]+=")


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of files and ``key=value`` apart; what is there under such a name is a file."""
    overrides = [text for text in words if OVERRIDE.match(text) and not Path(text).exists()]
    return [text for text in words if text not in overrides], overrides


def expand_inputs(named: Sequence[str]) -> list[Input]:
    """Every file that is meant, in the order named; a folder's and a glob's by name.

    Raises:
        UserError: A name is empty: to the file system that is the working directory, to a user an unset variable.
    """
    if "" in named:
        raise UserError(
            "one of the names is empty", "name videos, images, folders or globs; . is the working directory"
        )
    return [found for text in named for found in _expand(text)]


def named_inputs(named: Sequence[str]) -> list[Input]:
    """The same, of at least one name."""
    inputs = expand_inputs(named)
    if not inputs:
        raise UserError("nothing to look at was named", "name videos, images, folders or globs behind the run")
    return inputs


def _expand(text: str) -> Iterator[Input]:
    path = Path(text).expanduser()
    if path.is_dir():
        closed: list[Path] = []
        inside = list_files(path, "", _KNOWN, _DEPTH, closed.append)
        yield from (Input(one, reason="unreadable", detail="the folder may not be read") for one in sorted(closed))
        if not inside and not closed:
            yield Input(path, reason="nothing_inside", detail="the folder holds no video and no image")
        yield from (named_file(path / file.path) for file in inside)
    elif os.path.lexists(path):
        yield named_file(path)
    elif glob.has_magic(text):
        matches = sorted({Path(found) for found in _matches(str(path))})
        files = [found for found in matches if not found.is_dir()]
        if not files:
            yield Input(path, reason="not_found", detail="no file matches")
        yield from map(named_file, files)
    else:
        yield nothing_there(path)


def _matches(pattern: str) -> Iterator[str]:
    """What a glob matches; ``**`` reads each folder once, where Python's own goes round in circles of links."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from glob.glob(pattern)
        return
    place = parts.index("**")
    below = parts[place + 1 :] or ("*",)
    for top in glob.glob(os.path.join(*parts[:place])) if place else [""]:
        for folder in walk_folders(Path(top), "", _DEPTH):
            yield from _matches(os.path.join(glob.escape(os.path.join(top, folder)), *below))
