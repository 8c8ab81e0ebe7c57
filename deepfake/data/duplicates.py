"""Perceptual hashes to pairs of samples that show one picture, without comparing everything with everything.

Hashes are cut into bands; two hashes that differ in fewer bits than there are bands agree in one band at least
(the pigeonhole principle), so only those with an equal band are compared. Knows tables only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepfake.data.shortcuts import thumbnail_of

BITS = 5  # of 64 that may differ
_BANDS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))  # first bit and width
_LIKENESS = 0.95  # correlation of thumbnails; copies that were scaled, recompressed or toned reach 0.96 to 1
_CROWD = 4000  # hashes in one band beyond which it says nothing: flat pictures
_FLAT = 6  # a hash with fewer bits set, or unset, shows next to nothing


def near_duplicates(table: pd.DataFrame, bits: int = BITS) -> pd.DataFrame:
    """Pairs of samples that show one picture and should not.

    Args:
        table: ``sample_id``, ``split``, ``label``, ``groups``, ``dhashes`` (64-bit integers of a few frames),
            ``thumbnail`` and ``sha256`` (either may be empty).
        bits: How many bits of a frame's hash may differ, at most 5.

    Returns:
        ``sample_id``, ``split``, ``label``, ``other``, ``other_split``, ``other_label``, ``bits``; each pair once.
        Only pairs across splits, or across classes and not of one footage: a fake may resemble its original.
    """
    hashes, owners = _flatten(table["dhashes"])
    sides = _Sides(table)
    best: dict[tuple[int, int], int] = {}
    for left, right in _candidates(hashes):
        a, b = owners[left], owners[right]
        differ = sides.apart(a, b)
        distance = np.bitwise_count(hashes[left[differ]] ^ hashes[right[differ]])
        close = distance <= bits
        for i, j, d in zip(a[differ][close], b[differ][close], distance[close], strict=True):
            pair = (int(min(i, j)), int(max(i, j)))
            best[pair] = min(best.get(pair, 64), int(d))
    for pair in _same_bytes(table, sides):
        best[pair] = 0
    pictures = {i: thumbnail_of(table["thumbnail"].iloc[i]) for pair in best for i in pair}
    kept = [(i, j, d) for (i, j), d in sorted(best.items()) if _alike(pictures[i], pictures[j])]
    return _as_table(table, kept)


def _flatten(column: pd.Series) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """All hashes that show something, and the row each belongs to."""
    lists = [list(own) if isinstance(own, (list, tuple)) else [] for own in column]
    owners = np.repeat(np.arange(len(lists)), [len(own) for own in lists])
    hashes = np.array([value for own in lists for value in own], dtype=np.uint64)
    ones = np.bitwise_count(hashes)
    telling = (ones >= _FLAT) & (ones <= 64 - _FLAT)
    return hashes[telling], owners[telling]


def _candidates(hashes: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Index pairs with an equal band; a pair may come more than once."""
    for first, width in _BANDS:
        keys = (hashes >> np.uint64(first)) & np.uint64((1 << width) - 1)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        longest = int(np.unique(ordered, return_counts=True)[1].max(initial=0))
        for step in range(1, min(longest, _CROWD)):
            same = np.flatnonzero(ordered[step:] == ordered[:-step])
            if len(same):
                yield order[same], order[same + step]


class _Sides:
    """Which pairs of rows it would matter to find alike: across splits, or across classes but not of one footage."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.split = pd.factorize(table["split"])[0]
        self.label = table["label"].to_numpy()
        self.group = pd.factorize(table["groups"].map(lambda groups: groups[0]))[0]

    def apart(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """One answer for each pair of row numbers."""
        other_class = (self.label[a] != self.label[b]) & (self.group[a] != self.group[b])
        return np.asarray((a != b) & ((self.split[a] != self.split[b]) | other_class), dtype=bool)


def _same_bytes(table: pd.DataFrame, sides: _Sides) -> Iterator[tuple[int, int]]:
    digests = table["sha256"].reset_index(drop=True)
    for _, rows in digests[digests.fillna("") != ""].groupby(digests).groups.items():
        first, rest = np.array([rows[0]]), np.array(rows[1:], dtype=np.int64)
        for other in rest[sides.apart(np.repeat(first, len(rest)), rest)] if len(rest) else ():
            yield int(first[0]), int(other)


def _alike(a: NDArray[np.uint8] | None, b: NDArray[np.uint8] | None) -> bool:
    """Whether two thumbnails agree but for brightness and contrast; without them the hashes decide."""
    if a is None or b is None:
        return True
    x, y = (np.asarray(p, np.float64).ravel() - p.mean() for p in (a, b))
    spread = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) >= _LIKENESS * spread if spread > 0 else bool(x.any() == y.any())


def _as_table(table: pd.DataFrame, pairs: list[tuple[int, int, int]]) -> pd.DataFrame:
    left, right = [i for i, _, _ in pairs], [j for _, j, _ in pairs]
    columns = ["sample_id", "split", "label"]
    one = table[columns].iloc[left].reset_index(drop=True)
    other = table[columns].iloc[right].reset_index(drop=True)
    other.columns = pd.Index(["other", "other_split", "other_label"])
    return pd.concat([one, other], axis=1).assign(bits=[d for _, _, d in pairs])
