"""What every layout shares: its interface, listing files, naming samples, doubting labels. Knows no data set."""

from __future__ import annotations

import heapq
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deepfake.data.manifest import FAKE, REAL, Manifest
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError, printable

#: What operating systems and unzippers leave behind.
_LITTER = ("__macosx", ".", "_", "thumbs.db", "desktop.ini")


class Layout(Protocol):
    """One way a data set lies on disk.

    Attributes:
        name: What ``dataset.layout`` calls it.
        summary: One line: what is looked for.
        crops: Whether its pictures are face crops already.
    """

    name: str
    summary: str
    crops: bool

    def probe(self, root: Path) -> Path | None:
        """The folder in which the layout begins: ``root``, one below or one above it; None if it is not there.

        Cheap: it looks at names of folders and a few files, never at a long listing.
        """

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """The samples under the folder that :meth:`probe` returned, with published splits filled in."""


@dataclass(frozen=True)
class File:
    """A file below a data set's root.

    Attributes:
        path: Relative to the root, with forward slashes; bytes that are no UTF-8 are surrogate escapes.
        stem: The file's name without its last suffix.
        bytes: Its size.
    """

    path: str
    stem: str
    bytes: int


def list_files(
    root: Path, folder: str, suffixes: frozenset[str], depth: int = 0, closed: Callable[[Path], None] | None = None
) -> list[File]:
    """The files of one kind in a folder, sorted by path.

    Args:
        root: What the paths are relative to.
        folder: Relative to ``root``; "" is the root itself. A folder that is missing holds no files.
        suffixes: Lower-case file suffixes with their dot.
        depth: How many levels of folders below it are read too.
        closed: Told of a folder that may not be read, which is then left out; without it such a one is an error.

    A folder that links lead to twice is read once, under its own name before a link's; a link to a folder above is not
    followed.
    """
    return sorted(_walk(root, folder, suffixes, depth, closed), key=lambda file: file.path)


def _walk(
    root: Path, folder: str, suffixes: frozenset[str], depth: int, closed: Callable[[Path], None] | None
) -> Iterator[File]:
    for where in walk_folders(root, folder, depth, closed):
        with os.scandir(root / where) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                if suffix.lower() in suffixes and not is_litter(entry.name) and not _is_folder(entry):
                    yield File(f"{where}/{entry.name}" if where else entry.name, stem, _size(entry.path))


def _size(path: str) -> int:
    """Bytes; -1 where a link leads nowhere: a file that will not open is reported when it is opened."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def walk_folders(root: Path, folder: str, depth: int, closed: Callable[[Path], None] | None = None) -> Iterator[str]:
    """A folder and those below it, each once however many links lead to it.

    Args:
        root: What the paths are relative to.
        folder: Relative to ``root``; "" is the root itself. One that is missing gives nothing.
        depth: How many levels below it.
        closed: Told of a folder that may not be read, which is then left out; without it such a one is an error.
    """
    if not (root / folder).is_dir():
        return
    # A link to a folder above would give every file again, and those of the other class as this one's.
    seen: set[tuple[int, int]] = set()
    for above in (root / folder).resolve().parents:
        with suppress(PermissionError):  # no link leads through one that may not be looked into
            seen.add(_identity(above))
    waiting = [(False, folder, depth)]  # those without a link on their way come first
    while waiting:
        linked, path, left = heapq.heappop(waiting)
        identity = _identity(root / path)
        if identity in seen:
            continue
        seen.add(identity)
        if closed is not None and not os.access(root / path, os.R_OK | os.X_OK):
            closed(root / path)
            continue
        yield path
        if left == 0:
            continue
        with os.scandir(root / path) as entries:
            for entry in entries:
                if not is_litter(entry.name) and _is_folder(entry):
                    below = f"{path}/{entry.name}" if path else entry.name
                    heapq.heappush(waiting, (linked or entry.is_symlink(), below, left - 1))


def _identity(folder: Path) -> tuple[int, int]:
    facts = os.stat(folder)
    return facts.st_dev, facts.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is, or leads to, one; a link that leads back to itself leads to none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_litter(name: str) -> bool:
    """Whether a name belongs to an operating system or an unzipper rather than to a data set."""
    lower = name.lower()
    return lower.startswith(_LITTER[:2]) or lower in _LITTER[3:]


def read_json(path: Path, hint: str) -> Any:
    """What a JSON file of a data set holds.

    Args:
        path: The file.
        hint: What it should hold, for an error.

    Raises:
        DataError: It is no JSON, nests without end, or cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{path} is not JSON: {error}", hint) from error


def list_folders(root: Path, limit: int = 2000) -> list[str]:
    """The names of the folders right below ``root``, sorted; at most ``limit`` entries are looked at."""
    if not root.is_dir():
        return []
    found = []
    with os.scandir(root) as entries:
        for count, entry in enumerate(entries):
            if count >= limit:
                break
            if not is_litter(entry.name) and _is_folder(entry):
                found.append(entry.name)
    return sorted(found)


def child(root: Path, *names: str) -> str | None:
    """The folder right below ``root`` that has one of these names, whatever its case; None if there is none."""
    wanted = [name.lower() for name in names]
    found = {folder.lower(): folder for folder in list_folders(root)}
    return next((found[name] for name in wanted if name in found), None)


def has_file(root: Path, folder: str, suffixes: frozenset[str], look: int = 200) -> bool:
    """Whether one of the first ``look`` entries of a folder is a file of this kind."""
    where = root / folder
    if not where.is_dir():
        return False
    with os.scandir(where) as entries:
        for count, entry in enumerate(entries):
            if count >= look:
                return False
            if not is_litter(entry.name) and os.path.splitext(entry.name)[1].lower() in suffixes:
                return True
    return False


def inside(root: Path) -> list[Path]:
    """Where a layout may begin when it was unzipped into a folder of its own: here or one below."""
    return [root, *(root / name for name in list_folders(root, limit=200))]


def sample_ids(dataset: str, names: list[tuple[str, str]], paths: list[str]) -> list[str]:
    """``dataset/method/stem`` for each sample; those that would share one keep their file suffix as well.

    Args:
        dataset: The data set's name.
        names: A method and a stem (which may hold folders) for each sample.
        paths: Their files.
    """
    ids = [printable(f"{dataset}/{method}/{stem}") for method, stem in names]
    counts: dict[str, int] = {}
    for name in ids:
        counts[name] = counts.get(name, 0) + 1
    return [
        name if counts[name] == 1 else name + os.path.splitext(path)[1] for name, path in zip(ids, paths, strict=True)
    ]


def listed(names: list[str], most: int = 5) -> str:
    """A few of many names: ``a, b, c and 12 more``."""
    shown = ", ".join(printable(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


#: Folders whose names say what lies in them, in the sets people use.
REAL_FOLDERS = frozenset({"real", "reals", "original", "originals", "original_sequences", "celeb-real", "youtube-real"})
FAKE_FOLDERS = frozenset({"fake", "fakes", "manipulated_sequences", "celeb-synthesis", "deepfakes", "faceswap"})
_ENOUGH = 10  # fewer labels than this say nothing about which way round they are


def label_in_path(path: str) -> int | None:
    """The label that a path's folders name; None where they name none, or both."""
    return _label_named({part.lower() for part in path.split("/")[:-1]})


def label_in_name(path: str) -> int | None:
    """The label that the words of a file's own name tell, as in ``real_1.jpg``; None where they name none, or both."""
    return _label_named(set(re.split(r"[^a-z]+", path.rsplit("/", 1)[-1].rsplit(".", 1)[0].lower())))


def _label_named(words: set[str]) -> int | None:
    real, fake = bool(words & REAL_FOLDERS), bool(words & FAKE_FOLDERS)
    return None if real == fake else (FAKE if fake else REAL)


def check_paths(paths: Iterable[str], labels: Iterable[int], where: str) -> None:
    """Refuse labels that contradict the names of the folders that the files lie in.

    Raises:
        DataError: Most of the files whose folder names their class are labelled the other way.
    """
    named = [(label_in_path(path), label) for path, label in zip(paths, labels, strict=True)]
    wrong, known = _against(named)
    if known >= _ENOUGH and wrong > known / 2:
        raise _inverted(where, f"{wrong} of {known} files lie in folders that say the opposite")


def note_names(paths: Iterable[str], labels: Iterable[int], where: str, notes: list[str]) -> None:
    """Say when labels contradict the files' own names, which are a weaker sign than folders: no reason to refuse."""
    wrong, known = _against([(label_in_name(path), label) for path, label in zip(paths, labels, strict=True)])
    if known >= _ENOUGH and wrong > known / 2:
        notes.append(
            f"the labels in {where} look inverted: {wrong} of {known} files have names that say the opposite; 1 must "
            "mean fake, else turn the column round"
        )


def _against(named: list[tuple[int | None, int]]) -> tuple[int, int]:
    """How many labels contradict the names of their files, and how many files have a name that says a label."""
    known = [(said, label) for said, label in named if said is not None]
    return sum(said != label for said, label in known), len(known)


def check_fraction(labels: Iterable[int], low: float, high: float, where: str, least: int = 50) -> None:
    """Refuse labels whose fraction of fakes is the mirror image of the published set's.

    Args:
        labels: 0 and 1.
        low: The least fraction of fakes that the published set has in any of its parts; ``high`` the greatest.
        high: See ``low``.
        where: What to name in the error.
        least: With fewer labels than this nothing is concluded.

    Raises:
        DataError: The fraction lies outside, and inside with the labels turned round.
    """
    values = list(labels)
    fraction = sum(values) / max(1, len(values))
    if len(values) >= least and not low <= fraction <= high and low <= 1 - fraction <= high:
        raise _inverted(where, f"{fraction:.0%} are fake where the published set has {low:.0%} to {high:.0%}")


def check_against_folders(said: dict[str, str], rows: Iterable[dict[str, object]], where: str) -> None:
    """Refuse a data set's own table that contradicts its folders.

    Args:
        said: REAL or FAKE by the last two parts of a path, in lower case.
        rows: Manifest rows, labelled by folder.
        where: The table's name.

    Raises:
        DataError: Most of the rows that the table names are labelled the other way there.
    """
    words = {"real": REAL, "fake": FAKE}
    both = []
    for row in rows:
        word = said.get("/".join(str(row["path"]).lower().split("/")[-2:]), "").lower()
        if word in words:
            both.append(words[word] != row["label"])
    if both and sum(both) > len(both) / 2:
        raise _inverted(where, f"{sum(both)} of {len(both)} files lie in folders that say the opposite")


def _inverted(where: str, why: str) -> DataError:
    return DataError(f"the labels in {where} look inverted: {why}", "1 must mean fake; turn the column round")
