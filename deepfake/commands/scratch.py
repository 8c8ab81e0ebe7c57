"""Folders thrown away at the end; those of a command that was killed, by the next. Knows not what is in them."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

_LOCK = ".lock"  # hidden, so that no upload takes it


@contextmanager
def scratch_folder(verb: str) -> Iterator[Path]:
    """A folder in the place for temporary files; those that killed processes of this user left there go first.

    Args:
        verb: The command it is for. Its name says that and whose it is, and a lock in it that they are at it.
    """
    begins = f"deepfake-{verb}-{socket.gethostname()}-"
    _remove_leftovers(Path(tempfile.gettempdir()), begins)
    with (
        tempfile.TemporaryDirectory(prefix=f"{begins}{os.getpid()}-") as name,
        FileLock(Path(name) / _LOCK),
    ):
        yield Path(name)


def _remove_leftovers(place: Path, begins: str) -> None:
    for folder in place.glob(f"{glob.escape(begins)}*-*"):
        process = folder.name.removeprefix(begins).partition("-")[0]
        with suppress(OSError):  # somebody else removes it, or it is somebody else's
            own = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
            if own and process.isdigit() and not psutil.pid_exists(int(process)) and _is_free(folder / _LOCK):
                shutil.rmtree(folder)


def _is_free(lock: Path) -> bool:
    """Whether nobody holds it: the number of a process in another container says nothing here."""
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False
