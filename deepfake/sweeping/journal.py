"""Optuna's journal file, made safe: appends that are whole or not there, a lock that dies with its process.

Knows neither studies nor trials, nor other storages.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from optuna.storages.journal import JournalFileBackend

from deepfake.errors import UserError
from deepfake.sweeping.outage import PATIENCE, ride_out

POLL_SECONDS = 0.01


class Journal(JournalFileBackend):
    """Optuna's journal file, with several entries written as one.

    An append that fails, on a full disk say, is cut off again, for the next one would be written onto half a line.
    """

    def __init__(self, path: Path, lock: KernelLock) -> None:
        super().__init__(str(path), lock_obj=cast(Any, lock))
        self._kernel_lock = lock
        self._mutex = threading.RLock()
        # Entries that are yet to be written, and how many the file has before them, once that is known.
        self._pending: list[bytes] | None = None
        self._before: int | None = None
        self._lost = False

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Hold the file, and write at the end."""
        with self._kernel_lock.held():
            self._check_whole()
            self._pending, self._before = [], None
            try:
                yield
            finally:
                with self._mutex:
                    lines, self._pending = self._pending, None
                    # Unless they reach the file, the entries that were acted upon as written are lost.
                    self._lost = bool(lines)
                    ride_out(lambda: self._write(lines, self._before), self._file_path, PATIENCE)
                    self._lost = False

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write entries, or keep them for the end of the block."""
        lines = [json.dumps(entry, separators=(",", ":")).encode() + b"\n" for entry in logs]
        with self._mutex:
            if self._pending is not None:
                self._pending += lines
                return
        with self._kernel_lock.held():
            self._check_whole()
            self._write(lines, None)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """What the file holds from that entry on, then what is to be written."""
        if self._pending is None:
            yield from super().read_logs(log_number_from)
            return
        if self._before is None or log_number_from < self._before:
            number = log_number_from
            for entry in super().read_logs(log_number_from):
                number += 1
                yield entry
            self._before = number
        for line in self._pending[log_number_from - self._before :]:
            yield json.loads(line)

    def _check_whole(self) -> None:
        if self._lost:
            raise UserError(f"{self._file_path} could not be written to", "the same command goes on")

    def _write(self, lines: list[bytes], before: int | None) -> None:
        if not lines:
            return
        start = None
        try:
            with open(self._file_path, "ab") as file:
                start = file.tell()
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if start is not None:
                os.truncate(self._file_path, start)
            raise
        if before is not None:
            # Where each entry ends, else the file would be read from its beginning.
            for number, line in enumerate(lines, start=before + 1):
                start += len(line)
                self._log_number_offset[number] = start


class KernelLock:
    """Guards a journal with the kernel's file lock, so that a process killed while writing blocks nobody.

    Optuna's own lock files outlive their process, and the next one then waits half a minute.
    """

    def __init__(self, journal: Path) -> None:
        self._lock = FileLock(str(journal) + ".lock", poll_interval=POLL_SECONDS)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The journal is this thread's while the block lasts."""
        with self._lock:
            yield

    def acquire(self) -> bool:
        """As Optuna calls it."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """As Optuna calls it."""
        self._lock.release()


def drop_torn_line(journal: Path, lock: KernelLock) -> None:
    """A process killed while writing leaves half a line, onto which the next would write: cut it off."""
    if not journal.exists():
        return
    lock.acquire()
    try:
        with journal.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            keep = end
            while keep and not _ends_line(file, keep):
                keep -= 1
            if keep != end:
                file.truncate(keep)
    finally:
        lock.release()


def _ends_line(file: Any, position: int) -> bool:
    file.seek(position - 1)
    return bool(file.read(1) == b"\n")
