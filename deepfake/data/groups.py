"""Groups to connected components, and components to shares of fair size and class mix. Knows only tables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from deepfake.data.manifest import FAKE, REAL, SPLITS


def components(groups: pd.Series) -> pd.Series:
    """A number for each row, equal for rows that are linked by shared groups, directly or through others.

    Args:
        groups: A tuple of group names for each row.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for row in groups:
        first = root(row[0])
        for other in row[1:]:
            parent[root(other)] = first
    codes, _ = pd.factorize(pd.Index([root(row[0]) for row in groups]))
    return pd.Series(codes, index=groups.index, dtype="int64")


def crossing_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The groups that lie in more than one split.

    Returns:
        ``group``, ``splits`` (such as ``train, test``), ``samples`` (rows that touch it), sorted by group.
    """
    sides: dict[str, list[str]] = {}
    for groups, split in zip(table["groups"], table["split"], strict=True):
        if split:
            for group in groups:
                sides.setdefault(group, []).append(split)
    found = sorted(name for name, splits in sides.items() if len(set(splits)) > 1)
    return pd.DataFrame(
        {
            "group": found,
            "splits": [", ".join(s for s in SPLITS if s in sides[name]) for name in found],
            "samples": [len(sides[name]) for name in found],
        }
    )


def share_out(table: pd.DataFrame, chain: pd.Series, ratios: dict[str, float], seed: int) -> pd.Series:
    """A split for each row: whole components, sizes and class mix as close to the ratios as they allow.

    Components are dealt largest first to the split that lacks most of their classes. Then splits left
    empty, and splits left without a class, get the smallest component that the first split can spare.

    Args:
        table: Rows with ``sample_id`` and ``label``.
        chain: Each row's component.
        ratios: The share of each split; they need not sum to one. The first is the training part.
        seed: Another seed deals components of equal size differently.
    """
    counts = _class_counts(table, chain, seed)
    totals = counts.sum(axis=0).to_numpy(dtype=float)
    shares = np.array(list(ratios.values()), dtype=float)
    lacking = shares[:, None] / shares.sum() * totals  # [splits, classes]
    scale = 1 / np.maximum(totals, 1)
    dealt = np.zeros(len(counts), dtype=int)
    for i, own in enumerate(counts.to_numpy(dtype=float)):
        dealt[i] = int(np.argmax((lacking * (own * scale)).sum(axis=1)))
        lacking[dealt[i]] -= own
    _fill_gaps(dealt, counts.to_numpy(), len(shares))
    names = list(ratios)
    return chain.map(dict(zip(counts.index, (names[i] for i in dealt), strict=True)))


def cut_groups(table: pd.DataFrame, ratios: dict[str, float], seed: int) -> pd.Series:
    """A split for each row when components are too large to share out; "" for rows that would join two splits.

    Groups (people) are dealt instead of components; a row keeps a split only if all its groups are there.
    """
    single = table["groups"].map(len) == 1
    anchors = sorted({group for row in table["groups"] for group in row}, key=lambda name: _hash(name, seed))
    # Rows of one group, mostly real ones, say how much a person weighs; a person without any weighs one.
    weight = table.loc[single, "groups"].map(lambda row: row[0]).value_counts()
    shares = np.array(list(ratios.values()), dtype=float)
    total = float(sum(weight.get(name, 0) + 1 for name in anchors))
    lacking = shares / shares.sum() * total
    home: dict[str, int] = {}
    for name in sorted(anchors, key=lambda name: -weight.get(name, 0)):
        home[name] = int(np.argmax(lacking))
        lacking[home[name]] -= weight.get(name, 0) + 1
    names = list(ratios)

    def place(row: Sequence[str]) -> str:
        sides = {home[name] for name in row}
        return names[sides.pop()] if len(sides) == 1 else ""

    return table["groups"].map(place)


def _class_counts(table: pd.DataFrame, chain: pd.Series, seed: int) -> pd.DataFrame:
    """Rows of each class in each component, largest component first, ties in an order that the seed fixes."""
    counts = pd.crosstab(chain, table["label"]).reindex(columns=[REAL, FAKE], fill_value=0)
    first = table["sample_id"].groupby(chain).min()
    order = first.map(lambda name: _hash(name, seed))
    keys = pd.DataFrame({"size": -counts.sum(axis=1), "order": order})
    return counts.loc[keys.sort_values(["size", "order"]).index]


def _fill_gaps(dealt: np.ndarray, counts: np.ndarray, splits: int) -> None:
    """Move single components from the first split so that no other is empty or lacks a class, where it can."""
    for side in range(1, splits):
        if not (dealt == side).any():
            spare = sorted((REAL, FAKE), key=lambda c: -np.count_nonzero(counts[dealt == 0, c]))
            _move(dealt, counts, side, spare)
    for side in range(1, splits):
        for label in (REAL, FAKE):
            if not counts[dealt == side, label].any():
                _move(dealt, counts, side, [label])


def _move(dealt: np.ndarray, counts: np.ndarray, side: int, labels: Sequence[int]) -> None:
    for label in labels:
        holders = np.flatnonzero((dealt == 0) & (counts[:, label] > 0))
        for i in holders[::-1]:  # smallest last
            kept = (dealt == 0) & (np.arange(len(dealt)) != i)
            if all(counts[kept, c].any() for c in (REAL, FAKE) if counts[:, c].any()):
                dealt[i] = side
                return


def _hash(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).hexdigest()
