"""Who is at work in a folder: each process holds a lock that others share, who would remove it holds the lock alone.

The kernel lets go of it when a process dies, whichever way. Where the system has no such locks, or the folder cannot be
written to, nobody is noticed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from filelock import FileLock, Timeout

if sys.platform != "win32":
    import fcntl

#: In the folder; hidden, so that nobody takes it for a part of what lies there.
NAME = ".in-use.lock"


class InUseError(Exception):
    """Somebody is at work in the folder."""


def enter(folder: Path) -> FileIO | None:
    """Be at work in a folder for as long as what is returned is open; waits while the folder is being removed.

    Args:
        folder: Is made where it is not there.

    Returns:
        What holds the lock, and lets go of it when it is closed or forgotten; None where there can be none.

    Raises:
        OSError: The folder cannot be made.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        held = _opened(folder)
        if held is None:
            return None
        fcntl.flock(held, fcntl.LOCK_SH)
        if _is_there(folder, held):
            return held
        # Removed meanwhile, and perhaps made anew.
        held.close()


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Be at work in a folder while entered; see :func:`enter`."""
    held = enter(folder)
    try:
        yield
    finally:
        if held is not None:
            held.close()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder alone while entered, to remove it.

    Raises:
        InUseError: Somebody is at work in it.
    """
    while (held := _opened(folder)) is not None:
        with held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InUseError(f"a process is at work in {folder}") from error
            # Otherwise somebody has removed it meanwhile, and perhaps somebody made it anew.
            if _is_there(folder, held):
                yield
                return
    yield


def discard(folder: Path) -> None:
    """Remove a folder that is held alone and empty but for the lock; stays where somebody has come in by then."""
    (folder / NAME).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        if not (folder / NAME).exists():
            raise


def is_free(lock: Path) -> bool:
    """Whether nobody holds a file that is locked as :class:`filelock.FileLock` does."""
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def _opened(folder: Path) -> FileIO | None:
    if sys.platform == "win32":
        return None
    try:
        return FileIO(os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")
    except OSError:
        return None


def _is_there(folder: Path, held: FileIO) -> bool:
    try:
        return os.path.samestat(os.stat(folder / NAME), os.fstat(held.fileno()))
    except FileNotFoundError:
        return False
