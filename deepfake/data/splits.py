"""Samples to splits that share no person and no footage: groups to components, components to splits.

Knows tables only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from deepfake.data.layouts.base import listed
from deepfake.data.manifest import FAKE, REAL, SPLITS, Manifest
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError


def components(groups: pd.Series) -> pd.Series:
    """A number for each row, equal for rows that are linked by shared groups, directly or through others.

    Args:
        groups: A tuple of group names for each row.

    Example:
        >>> components(pd.Series([("a",), ("b",), ("a", "c"), ("c",)])).tolist()
        [0, 1, 0, 0]
    """
    counts = groups.map(len).to_numpy(np.int64)
    codes, names = pd.factorize(groups.explode())
    first = codes[np.cumsum(counts) - counts]
    links = coo_array((np.ones(len(codes)), (np.repeat(first, counts), codes)), shape=(len(names), len(names)))
    _, linked = connected_components(links, directed=False)
    numbers, _ = pd.factorize(linked[first])
    return pd.Series(numbers, index=groups.index, dtype="int64")


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


def split_components(table: pd.DataFrame, component: pd.Series, ratios: dict[str, float], seed: int) -> pd.Series:
    """A split for each row: whole components, sizes and class mix as close to the ratios as they allow.

    Components are assigned largest first to the split that lacks most of their classes. Then splits left
    empty, and splits left without a class, get the smallest component that the first split can spare.

    Args:
        table: Rows with ``sample_id`` and ``label``.
        component: Each row's component.
        ratios: The fraction of each split; they need not sum to one. The first is the training part.
        seed: Another seed deals components of equal size differently.
    """
    counts = _class_counts(table, component, seed)
    totals = counts.sum(axis=0).to_numpy(dtype=float)
    fractions = np.array(list(ratios.values()), dtype=float)
    lacking = fractions[:, None] / fractions.sum() * totals  # [splits, classes]
    scale = 1 / np.maximum(totals, 1)
    assigned = np.zeros(len(counts), dtype=int)
    for i, size in enumerate(counts.to_numpy(dtype=float)):
        assigned[i] = int(np.argmax((lacking * (size * scale)).sum(axis=1)))
        lacking[assigned[i]] -= size
    _fill_gaps(assigned, counts.to_numpy(), len(fractions))
    names = list(ratios)
    return component.map(dict(zip(counts.index, (names[i] for i in assigned), strict=True)))


def split_groups(table: pd.DataFrame, ratios: dict[str, float], seed: int) -> pd.Series:
    """A split for each row when components are too large to split; "" for rows that would join two splits.

    Groups (people) are assigned instead of components; a row keeps a split only if all its groups are there.
    """
    single = table["groups"].map(len) == 1
    anchors = sorted({group for row in table["groups"] for group in row}, key=lambda name: _hash(name, seed))
    # Rows of one group, mostly real ones, say how much a person weighs; a person without any weighs one.
    weight = table.loc[single, "groups"].map(lambda row: row[0]).value_counts()
    fractions = np.array(list(ratios.values()), dtype=float)
    total = float(sum(weight.get(name, 0) + 1 for name in anchors))
    lacking = fractions / fractions.sum() * total
    home: dict[str, int] = {}
    for name in sorted(anchors, key=lambda name: -weight.get(name, 0)):
        home[name] = int(np.argmax(lacking))
        lacking[home[name]] -= weight.get(name, 0) + 1
    names = list(ratios)

    def place(row: Sequence[str]) -> str:
        sides = {home[name] for name in row}
        return names[sides.pop()] if len(sides) == 1 else ""

    return table["groups"].map(place)


def _class_counts(table: pd.DataFrame, component: pd.Series, seed: int) -> pd.DataFrame:
    """Rows of each class in each component, largest component first, ties in an order that the seed fixes."""
    counts = pd.crosstab(component, table["label"]).reindex(columns=[REAL, FAKE], fill_value=0)
    first = table["sample_id"].groupby(component).min()
    order = first.map(lambda name: _hash(name, seed))
    keys = pd.DataFrame({"size": -counts.sum(axis=1), "order": order})
    return counts.loc[keys.sort_values(["size", "order"]).index]


def _fill_gaps(assigned: np.ndarray, counts: np.ndarray, splits: int) -> None:
    """Move single components from the first split so that no other is empty or lacks a class, where it can."""
    for side in range(1, splits):
        if not (assigned == side).any():
            spare = sorted((REAL, FAKE), key=lambda c: -np.count_nonzero(counts[assigned == 0, c]))
            _move(assigned, counts, side, spare)
    for side in range(1, splits):
        for label in (REAL, FAKE):
            if not counts[assigned == side, label].any():
                _move(assigned, counts, side, [label])


def _move(assigned: np.ndarray, counts: np.ndarray, side: int, labels: Sequence[int]) -> None:
    for label in labels:
        holders = np.flatnonzero((assigned == 0) & (counts[:, label] > 0))
        for i in holders[::-1]:  # smallest last
            staying = (assigned == 0) & (np.arange(len(assigned)) != i)
            if all(counts[staying, c].any() for c in (REAL, FAKE) if counts[:, c].any()):
                assigned[i] = side
                return


def _hash(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).hexdigest()


__all__ = ["assign_splits", "crossing_groups"]

_FAR = 0.4  # how far a split may be off, as a fraction of what was asked, before it is noted


def assign_splits(manifest: Manifest, options: DatasetOptions) -> Manifest:
    """Give every sample a split, by ``options.splits``.

    ``grouped`` ignores published splits and splits whole connected components of groups over train, val
    and test. ``auto`` keeps published splits, and carves those that are missing from the training part by
    group. ``official`` is auto, but refuses a set without published splits and drops samples outside them.
    ``strict`` is auto made disjoint: the test part stays as published.

    Args:
        manifest: Published splits where the layout found any, else empty ones.
        options: ``splits``, ``split_ratios`` and ``split_seed``.

    Returns:
        A new manifest; notes say what was carved, moved or dropped.

    Raises:
        DataError: ``official`` without published splits, ratios that leave no training part, or an overlap
            in a split of ours.
    """
    ratios = _ratios(options)
    notes = list(manifest.notes)
    table = manifest.table.copy()
    published = bool((table["split"] != "").any())
    if options.splits == "official":
        table = _only_published(table, notes, published)
    if options.splits == "grouped" or not published:
        table["split"] = ""
        table = _fill(table, ratios, SPLITS, options.split_seed, notes)
        official = False
    else:
        table = _complete(table, ratios, options.split_seed, notes)
        official = manifest.official
    if options.splits == "strict":
        table = make_strict(table, notes)
    _check_crossing(table, notes, refuse=not published or options.splits in ("grouped", "strict"))
    return replace(manifest, table=table.reset_index(drop=True), notes=notes, official=official)


def make_strict(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The same splits made disjoint: test stays, what touches it is dropped elsewhere; train and val part ways.

    A chain of groups that train and val share goes as a whole to the side that holds more of it, unless that
    would empty the other side, in which case the training samples in question are dropped.
    """
    protected = {group for groups in table.loc[table["split"] == "test", "groups"] for group in groups}
    touches = table["groups"].map(lambda groups: any(group in protected for group in groups))
    drop = touches & (table["split"] != "test")
    if drop.any():
        counts = table.loc[drop, "split"].value_counts()
        said = " and ".join(f"{counts[name]} from {name}" for name in SPLITS if name in counts)
        notes.append(f"strict splits: dropped {said}, which share footage or a person with test")
    table = table[~drop].copy()
    rest = table["split"] != "test"
    labels = components(table.loc[rest, "groups"])
    sides = table.loc[rest, "split"].groupby(labels).agg(lambda s: str(s.value_counts().idxmax()))
    wanted = labels.map(sides)
    moved = wanted != table.loc[rest, "split"]
    if not moved.any():
        return table
    if set(wanted) == set(table.loc[rest, "split"]):
        notes.append(f"strict splits: moved {int(moved.sum())} samples between train and val to keep groups whole")
        table.loc[rest, "split"] = wanted
        return table
    in_val = {group for groups in table.loc[table["split"] == "val", "groups"] for group in groups}
    bridging = table["groups"].map(lambda g: any(i in in_val for i in g)) & (table["split"] == "train")
    notes.append(f"strict splits: dropped {int(bridging.sum())} from train, which share a group with val")
    return table[~bridging].copy()


def _ratios(options: DatasetOptions) -> dict[str, float]:
    if len(options.split_ratios) != len(SPLITS) or options.split_ratios[0] <= 0:
        raise DataError(
            f"dataset.split_ratios={options.split_ratios} leaves no training part",
            "give three shares for train, val and test, such as [0.7,0.15,0.15]",
        )
    return dict(zip(SPLITS, options.split_ratios, strict=True))


def _only_published(table: pd.DataFrame, notes: list[str], published: bool) -> pd.DataFrame:
    if not published:
        raise DataError(
            "dataset.splits=official, but this set has no published splits here",
            "use dataset.splits=grouped, or name them with dataset.split_files",
        )
    outside = table["split"] == ""
    if outside.any():
        notes.append(f"left out {int(outside.sum())} samples that no published split names")
    return table[~outside].copy()


def _complete(table: pd.DataFrame, ratios: dict[str, float], seed: int, notes: list[str]) -> pd.DataFrame:
    """Place what no published split names, then carve the splits that are missing from the training part."""
    table = _place_unsplit(table, notes)
    unsplit = table["split"] == ""
    if unsplit.any():
        notes.append(f"{int(unsplit.sum())} samples that no published split names are split by group")
        table = pd.concat([table[~unsplit], _fill(table[unsplit].copy(), ratios, SPLITS, seed, notes)]).sort_index()
    parts = [_carve(part, ratios, seed, notes) for _, part in table.groupby("dataset", sort=False)]
    return pd.concat(parts).sort_index()


def _carve(table: pd.DataFrame, ratios: dict[str, float], seed: int, notes: list[str]) -> pd.DataFrame:
    """Make the splits that one data set's published ones lack, of its training part."""
    missing = [name for name in SPLITS if ratios[name] > 0 and not (table["split"] == name).any()]
    if not missing:
        return table
    donor = "train" if "train" not in missing else str(table["split"].value_counts().idxmax())
    part = table["split"] == donor
    names = tuple(name for name in SPLITS if name in missing or name == donor)
    carved = _fill(table[part].copy(), ratios, names, seed, notes)
    sizes = ", ".join(f"{name} {int((carved['split'] == name).sum())}" for name in names)
    notes.append(f"no published {' or '.join(missing)} split: carved from {donor} by group ({sizes})")
    return pd.concat([table[~part], carved])


def _place_unsplit(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Samples outside the published splits go where their footage is; those that bridge two are dropped."""
    unsplit = table["split"] == ""
    if not unsplit.any():
        return table
    home: dict[str, set[str]] = {}
    for groups, split in zip(table.loc[~unsplit, "groups"], table.loc[~unsplit, "split"], strict=True):
        for group in groups:
            home.setdefault(group, set()).add(split)
    homes = table.loc[unsplit, "groups"].map(
        lambda groups: set[str]().union(*(home.get(group, set()) for group in groups))
    )
    table = table.copy()
    single = homes.map(len) == 1
    table.loc[single[single].index, "split"] = homes[single].map(lambda found: next(iter(found)))
    bridging = homes.index[homes.map(len) > 1]
    if len(bridging):
        names = table.loc[bridging, "sample_id"].tolist()
        notes.append(f"left out {len(bridging)} samples whose footage is in two published splits: {listed(names)}")
    return table.drop(index=bridging)


def _fill(
    table: pd.DataFrame, ratios: dict[str, float], names: tuple[str, ...], seed: int, notes: list[str]
) -> pd.DataFrame:
    """Split the rows by whole components, or, where one component is too large, by single groups."""
    wanted = {name: ratios[name] for name in names if ratios[name] > 0}
    component = components(table["groups"])
    largest = component.value_counts(normalize=True).max() if len(component) else 0.0
    rest = 1 - max(wanted.values()) / sum(wanted.values())
    if len(table) >= 20 and largest > 1 - rest / 2:
        split = split_groups(table, wanted, seed)
        dropped = int((split == "").sum())
        notes.append(
            f"nearly all samples are linked by shared footage or people: {dropped} of {len(table)} "
            "that would join two splits are left out"
        )
        return table.assign(split=split)[split != ""]
    assigned = table.assign(split=split_components(table, component, wanted, seed))
    _note_far_off(assigned["split"], wanted, component, notes)
    return assigned


def _note_far_off(split: pd.Series, wanted: dict[str, float], component: pd.Series, notes: list[str]) -> None:
    """Say when few large groups leave a split far from the fraction that was asked for."""
    far_off = []
    for name, ratio in wanted.items():
        asked, got = ratio / sum(wanted.values()), float((split == name).mean())
        # A set of a few samples has no nearer fraction to give.
        if abs(got - asked) > max(_FAR * asked, 1.5 / len(split)):
            far_off.append(f"{name} {got:.0%} of the samples rather than {asked:.0%}")
    if far_off:
        count, largest = component.nunique(), int(component.value_counts().max())
        notes.append(
            f"splits are made of whole groups, and {count} {'group' if count == 1 else 'groups'} (the largest of "
            f"{largest} samples) give {', '.join(far_off)}; dataset.split_seed=1 may deal them better, more data will"
        )


def _check_crossing(table: pd.DataFrame, notes: list[str], refuse: bool) -> None:
    crossing = crossing_groups(table)
    if crossing.empty:
        return
    names = listed(crossing["group"].tolist())
    rows = int(crossing["samples"].sum())
    if refuse:
        raise DataError(
            f"{len(crossing)} groups are on two sides of a split of ours: {names}; "
            f"rows: {listed(_rows(table, crossing))}",
            "give rows that share footage one split, or leave the split column out",
        )
    notes.append(
        f"published splits share {len(crossing)} groups ({rows} samples) between them: {names}; "
        "dataset.splits=strict makes them disjoint"
    )


def _rows(table: pd.DataFrame, crossing: pd.DataFrame) -> list[str]:
    groups = set(crossing["group"])
    hit = table["groups"].map(lambda names: any(group in groups for group in names))
    return table.loc[hit, "sample_id"].tolist()


def one_class_splits(table: pd.DataFrame) -> dict[str, str]:
    """The splits that hold no sample of one class, and which class that is: ``real`` or ``fake``."""
    lacking = {}
    for name in SPLITS:
        present = set(table.loc[table["split"] == name, "label"])
        if present and REAL not in present:
            lacking[name] = "real"
        elif present and FAKE not in present:
            lacking[name] = "fake"
    return lacking
