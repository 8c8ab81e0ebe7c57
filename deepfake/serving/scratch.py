"""Where a service keeps what it is sent: a folder of its own, and one in it for each request, always removed.

A service that is killed cannot; the next one of the same user on the same machine does."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from deepfake.presence import is_free

_BEGINS = "deepfake-serve-"
_LOCK = ".lock"


@contextmanager
def service_folder(place: Path | None = None) -> Iterator[Path]:
    """A folder for as long as the service runs; those that killed services left there go first.

    Args:
        place: Where; None for the place for temporary files.
    """
    within = Path(tempfile.gettempdir()) if place is None else place
    _remove_leftovers(within)
    folder = within / f"{_BEGINS}{os.getuid() if hasattr(os, 'getuid') else 0}-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    try:
        # The kernel lets go of it whichever way the process ends.
        with FileLock(folder / _LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(place: Path) -> None:
    for folder in place.glob(f"{_BEGINS}*"):
        with suppress(OSError):  # somebody else removes it, or it is somebody else's
            own = not folder.is_symlink() and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid())
            # One that has no lock yet was made a moment ago.
            made = (folder / _LOCK).exists() or time.time() - folder.stat().st_mtime > 60
            if own and made and is_free(folder / _LOCK):
                shutil.rmtree(folder)


@asynccontextmanager
async def request_folder(service: Path) -> AsyncIterator[Path]:
    """A folder for one request, removed when it ends, however it ends."""
    folder = service / f"request-{secrets.token_hex(8)}"
    await asyncio.to_thread(folder.mkdir)
    try:
        yield folder
    finally:
        # Whoever is cancelled here once more still leaves nothing behind.
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, True))


class Kept:
    """Overlays, each at an address that nobody can guess, for a while.

    Args:
        folder: Where they lie.
        seconds: For how long each.
        most: At once; the oldest goes first.
    """

    def __init__(self, folder: Path, seconds: float, most: int) -> None:
        self._folder = folder
        self._seconds = seconds
        self._most = most
        self._until: dict[str, float] = {}
        folder.mkdir(exist_ok=True)

    def take(self, path: Path) -> str:
        """Keep a file; returns its name."""
        name = f"{secrets.token_urlsafe(24)}{path.suffix}"
        path.replace(self._folder / name)
        self._until[name] = time.monotonic() + self._seconds
        self.clear()
        return name

    def find(self, name: str) -> Path | None:
        """Where a file lies that is still kept."""
        self.clear()
        return self._folder / name if name in self._until else None

    def clear(self) -> None:
        """Remove what was kept for long enough, and what is too much."""
        now = time.monotonic()
        names = list(self._until)
        for name in names:
            if self._until[name] <= now or len(self._until) > self._most:
                del self._until[name]
                (self._folder / name).unlink(missing_ok=True)
