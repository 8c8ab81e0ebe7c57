"""The entries of a run that the tracking server has not taken yet, as a file of JSON lines in the run's folder.

Holds names of files, not their bytes; whatever stops the process leaves a journal that another can go on with. Knows
no MLflow.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deepfake.errors import UserError
from deepfake.tracking.run_folder import refuse_links

#: In a run's folder: its journals, and copies of what they name outside of it.
FOLDER = "unsent"
#: Raised with every change that an older reader would misread.
FORMAT = 1

#: One thing to log: its ``kind`` and what belongs to it, as plain values.
Entry = dict[str, Any]

_REFUSED = ".refused"
#: A journal of which all was sent is begun anew beyond this size, so that long runs do not grow it without end.
_LONG = 1 << 20
_AT_ONCE = 64


class Journal:
    """Entries in the order they were logged, and how far they were sent. One process has it open at a time.

    Args:
        path: The file, ``<run folder>/unsent/<name>.jsonl``; made where it does not exist.
        header: What a new file says of itself: the run and where it is tracked.

    Raises:
        BlockingIOError: Another process has it open.
        UserError: It is no journal that this version reads, or a link leads out of the run's folder from there.
    """

    def __init__(self, path: Path, header: Mapping[str, object] | None = None) -> None:
        self.path = path
        self.root = path.parent.parent
        self._changing = threading.Lock()
        self._open = True
        refuse_links(self.root, FOLDER)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._owner = FileLock(path.with_suffix(".lock"), thread_local=False)
        try:
            self._owner.acquire(timeout=0)
        except Timeout:
            raise BlockingIOError(f"{path} is open in another process") from None
        try:
            if not path.exists() or path.stat().st_size == 0:
                self._begin({"format": FORMAT, **(header or {})})
            self.header = self._read_header()
            self._from, self.waiting = self._recall()
        except BaseException:
            self._owner.release()
            raise

    @property
    def closed(self) -> bool:
        """Whether it was let go of: somebody else may send what is left in it."""
        return not self._open

    def append(self, entry: Entry) -> None:
        """Keep an entry until it is sent."""
        with self._changing:
            if self._open:
                self._add(entry)
                self.waiting += 1

    def next(self) -> list[tuple[Entry, int]]:
        """The oldest entries that were not sent, each with where it ends; empty where all were."""
        with self._changing:
            found = []
            for entry, end in self._entries(self._from):
                if "kind" in entry:
                    found.append((entry, end))
                if len(found) == _AT_ONCE:
                    break
            return found

    def sent(self, end: int, entries: int) -> None:
        """Remember that everything up to ``end``, so many entries, need not be sent again."""
        with self._changing:
            if not self._open:
                return
            self._from = end
            self.waiting -= entries
            if self.waiting == 0 and self.path.stat().st_size > _LONG:
                self._begin(self.header)
                self._from = self.path.stat().st_size
                return
            self._add({"sent": end})

    def known(self, run_id: str) -> None:
        """Remember which run it is of, once that was made."""
        with self._changing:
            self.header["run_id"] = run_id
            if self._open:
                self._add({"run_id": run_id})

    def refuse(self, entry: Entry, reason: str) -> None:
        """Put an entry aside that the server will never take."""
        line = json.dumps({"reason": reason, **entry}) + "\n"
        with self.path.with_suffix(f"{_REFUSED}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)

    def keep(self, file: Path) -> str:
        """The name of a file below the run's folder; one that lies elsewhere may go, so a copy is kept."""
        try:
            return file.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError:
            pass
        copies = self.path.with_suffix("")
        number = len(list(copies.iterdir())) if copies.is_dir() else 0
        place = copies / str(number) / file.name
        place.parent.mkdir(parents=True)
        shutil.copyfile(file, place)
        return place.relative_to(self.root).as_posix()

    def named(self, name: str) -> Path:
        """The file behind a name of :meth:`keep`.

        Raises:
            ValueError: It lies outside of the run's folder: a journal may come from a stranger.
        """
        found = (self.root / name).resolve()
        if not found.is_relative_to(self.root.resolve()):
            raise ValueError(f"{name!r} is not in the run's folder")
        return found

    def close(self) -> None:
        """Let go of it, and remove it where nothing is left to send."""
        with self._changing:
            if not self._open:
                return
            self._open = False
            if self.waiting == 0:
                self.path.unlink(missing_ok=True)
                shutil.rmtree(self.path.with_suffix(""), ignore_errors=True)
            self._owner.release()
            if self.waiting == 0:
                self.path.with_suffix(".lock").unlink(missing_ok=True)
                if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
                    self.path.parent.rmdir()

    def _add(self, entry: Entry) -> None:
        line = json.dumps(entry).encode() + b"\n"
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                # Half a line would spoil the next.
                file.truncate(end)
                raise

    def _begin(self, header: dict[str, Any]) -> None:
        partial = self.path.with_suffix(".tmp")
        partial.write_text(json.dumps(header) + "\n", encoding="utf-8")
        os.replace(partial, self.path)

    def _read_header(self) -> dict[str, Any]:
        with self.path.open("rb") as file:
            header = _parsed(file.readline())
        if header is None or header.get("format") != FORMAT or not isinstance(header.get("run_id"), str):
            raise UserError(f"{self.path} is no journal of unsent entries that this version reads", "leave it out")
        return header

    def _recall(self) -> tuple[int, int]:
        """Where the first unsent entry begins, and how many there are."""
        with self.path.open("rb+") as file:
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                # The line that a kill cut short stays a line of its own.
                file.write(b"\n")
        start, ends = 0, []
        for entry, end in self._entries(0):
            if isinstance(entry.get("sent"), int):
                start = entry["sent"]
            elif isinstance(entry.get("run_id"), str):
                self.header["run_id"] = entry["run_id"]
            elif "kind" in entry:
                ends.append(end)
        start = min(max(start, 0), self.path.stat().st_size)
        return start, sum(end > start for end in ends)

    def _entries(self, start: int) -> Iterator[tuple[Entry, int]]:
        with self.path.open("rb") as file:
            file.seek(start)
            for line in iter(file.readline, b""):
                if not line.endswith(b"\n"):
                    return
                entry = _parsed(line)
                if entry is not None and "format" not in entry:
                    yield entry, file.tell()


def open_journal(folder: Path, name: str, header: Mapping[str, object]) -> Journal:
    """The journal of a run in its folder, with what an earlier process left in it.

    Args:
        folder: The run's folder.
        name: The run's MLflow id, or another mark of it.
        header: ``run_id``, empty where no server knows the run yet; ``store``, where it is tracked, without passwords,
            for people to read; and ``begin``, what the run is to be made of where it is not yet.
    """
    number = 1
    while True:
        free = name if number == 1 else f"{name}-{number}"
        try:
            return Journal(folder / FOLDER / f"{free}.jsonl", header)
        except BlockingIOError:
            # Another process logs to the same run: a trial that was taken up, or an evaluation of it.
            number += 1


def read_headers(folder: Path) -> list[dict[str, Any]]:
    """What the journals in a run's folder say of themselves, with the id that the run was given since.

    Other processes may have them open.

    Raises:
        UserError: A link leads out of the run's folder from there.
    """
    refuse_links(folder, FOLDER)
    found = []
    for path in find_journals([folder]):
        if path.parent != folder / FOLDER:
            continue
        with path.open("rb") as file:
            header, *entries = map(_parsed, file.readlines() or [b""])
        if header is None or header.get("format") != FORMAT:
            continue
        ids = [entry["run_id"] for entry in (header, *entries) if entry and isinstance(entry.get("run_id"), str)]
        found.append({**header, "run_id": ids[-1] if ids else ""})
    return found


def find_journals(folders: Sequence[Path]) -> list[Path]:
    """The journals of runs: in these folders and below."""
    found: list[Path] = []
    for folder in folders:
        for place in sorted({*folder.glob(FOLDER), *folder.glob(f"**/{FOLDER}")}):
            found += [path for path in sorted(place.glob("*.jsonl")) if _REFUSED not in path.suffixes]
    return list(dict.fromkeys(found))


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
