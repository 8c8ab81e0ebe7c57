"""Whether labels are the right way round, by what is known of a data set. Knows no particular one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from deepfake.data.manifest import FAKE, REAL
from deepfake.errors import DataError

#: Folders whose names say what lies in them, in the sets people use.
REAL_FOLDERS = frozenset({"real", "reals", "original", "originals", "original_sequences", "celeb-real", "youtube-real"})
FAKE_FOLDERS = frozenset({"fake", "fakes", "manipulated_sequences", "celeb-synthesis", "deepfakes", "faceswap"})
_ENOUGH = 10  # fewer labels than this say nothing about which way round they are


def told_by_path(path: str) -> int | None:
    """The label that a path's folders tell; None where they tell none, or both."""
    return _told({part.lower() for part in path.split("/")[:-1]})


def told_by_name(path: str) -> int | None:
    """The label that the words of a file's own name tell, as in ``real_1.jpg``; None where they tell none, or both."""
    return _told(set(re.split(r"[^a-z]+", path.rsplit("/", 1)[-1].rsplit(".", 1)[0].lower())))


def _told(words: set[str]) -> int | None:
    real, fake = bool(words & REAL_FOLDERS), bool(words & FAKE_FOLDERS)
    return None if real == fake else (FAKE if fake else REAL)


def check_paths(paths: Iterable[str], labels: Iterable[int], where: str) -> None:
    """Refuse labels that contradict the names of the folders that the files lie in.

    Raises:
        DataError: Most of the files whose folder tells their class are labelled the other way.
    """
    told = [(told_by_path(path), label) for path, label in zip(paths, labels, strict=True)]
    wrong, known = _against(told)
    if known >= _ENOUGH and wrong > known / 2:
        raise _inverted(where, f"{wrong} of {known} files lie in folders that say the opposite")


def note_names(paths: Iterable[str], labels: Iterable[int], where: str, notes: list[str]) -> None:
    """Say when labels contradict the files' own names, which are a weaker sign than folders: no reason to refuse."""
    wrong, known = _against([(told_by_name(path), label) for path, label in zip(paths, labels, strict=True)])
    if known >= _ENOUGH and wrong > known / 2:
        notes.append(
            f"the labels in {where} look inverted: {wrong} of {known} files have names that say the opposite; 1 must "
            "mean fake, else turn the column round"
        )


def _against(told: list[tuple[int | None, int]]) -> tuple[int, int]:
    """How many labels contradict what is told of their files, and of how many anything is told."""
    known = [(tells, label) for tells, label in told if tells is not None]
    return sum(tells != label for tells, label in known), len(known)


def check_share(labels: Iterable[int], low: float, high: float, where: str, least: int = 50) -> None:
    """Refuse labels whose share of fakes is the mirror image of the published set's.

    Args:
        labels: 0 and 1.
        low: The least share of fakes that the published set has in any of its parts; ``high`` the greatest.
        high: See ``low``.
        where: What to name in the error.
        least: With fewer labels than this nothing is concluded.

    Raises:
        DataError: The share lies outside, and inside with the labels turned round.
    """
    values = list(labels)
    share = sum(values) / max(1, len(values))
    if len(values) >= least and not low <= share <= high and low <= 1 - share <= high:
        raise _inverted(where, f"{share:.0%} are fake where the published set has {low:.0%} to {high:.0%}")


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
