"""Files and folders that appear whole or not at all: written beside their place, and moved there.

A process that is killed in between leaves what it had written; who writes in the same place next removes it.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

#: Whose it is and what it will be called.
_HALF = re.compile(r"\.(?P<host>.+)-(?P<process>\d+)-[0-9a-f]{8}\..+")


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A free name beside ``path``; what is written there is moved to ``path`` unless an exception ends the block.

    Args:
        path: A file, or a folder that does not exist yet. Its own folder does.
    """
    _remove(path.parent.glob(f".*.{glob.escape(path.name)}"))
    half = path.with_name(f".{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield half
        half.replace(path)
    finally:
        _discard(half)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where it cannot have one; ``target`` does not exist yet.

    Only for files that are never written in place: what is changed under one name changes under both.
    """
    try:
        os.link(source, target)
    except OSError:
        # Another disk, or a file system without links.
        shutil.copyfile(source, target)


def remove_halves(folder: Path) -> None:
    """Remove what killed processes of this machine left half-written anywhere in a folder."""
    _remove(folder.rglob(".*-*-*.*"))


def _remove(found: Iterable[Path]) -> None:
    for path in list(found):
        half = _HALF.fullmatch(path.name)
        # Of another machine's processes nothing is known here.
        if half and half["host"] == socket.gethostname() and not psutil.pid_exists(int(half["process"])):
            with suppress(OSError):  # somebody else removes it, or it is somebody else's
                _discard(path)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
