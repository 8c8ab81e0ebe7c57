"""A manifest, and what is known of its files, to the reasons not to trust a number trained on it.

Counts, leaks between splits, shortcuts between classes, coverage. Knows tables only: it opens no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepfake.data.layouts.base import listed
from deepfake.data.manifest import FAKE, REAL, SPLITS, Manifest
from deepfake.data.shortcuts import (
    Shortcut,
    chance_of_difference,
    colour_shortcut,
    framing_shortcut,
    metadata_shortcut,
    thumbnail_of,
)
from deepfake.data.splits import components, crossing_groups

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
    confirmed = [(i, j, d) for (i, j), d in sorted(best.items()) if _alike(pictures[i], pictures[j])]
    return _as_table(table, confirmed)


def _flatten(column: pd.Series) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """All hashes that show something, and the row each belongs to."""
    lists = [list(values) if isinstance(values, (list, tuple)) else [] for values in column]
    owners = np.repeat(np.arange(len(lists)), [len(values) for values in lists])
    hashes = np.array([value for values in lists for value in values], dtype=np.uint64)
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


#: Rises when the same samples would be judged otherwise.
VERSION = 3
#: A ROC-AUC past which what should tell nothing tells the class, where it is no chance.
METADATA_LIMIT = 0.7
FRAMING_LIMIT = 0.75
COLOUR_LIMIT = 0.75
_IMBALANCE = 4.0
_CHANCE = 0.001  # the fraction of sets without a difference between classes in which each kind is found all the same
_FEW_SAMPLES = 30  # samples of a class below which a ROC-AUC has an interval wider than +-0.1
_NAMES = {REAL: "real", FAKE: "fake"}


@dataclass
class Audit:
    """What was found.

    Attributes:
        tables: Printable sections by title.
        warnings: What gives the label away or makes a number worthless, one sentence each.
        facts: The same for machines: only numbers, strings, lists and dicts.
    """

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        tables = {title: table.to_dict("records") for title, table in self.tables.items()}
        return {"warnings": self.warnings, **self.facts, "tables": tables}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Audit:
        """Back from what :meth:`as_dict` gave, or from its JSON."""
        tables = {title: pd.DataFrame(rows) for title, rows in saved["tables"].items()}
        facts = {name: value for name, value in saved.items() if name not in ("tables", "warnings")}
        return cls(tables, list(saved["warnings"]), facts)

    def text(self) -> str:
        """Everything, to be printed or kept as a text file."""
        parts = [f"{title}\n{table.to_string(index=False)}" for title, table in self.tables.items()]
        parts.append("\n".join(f"warning: {warning}" for warning in self.warnings) or "no warnings")
        return "\n\n".join(parts) + "\n"


def audit_dataset(manifest: Manifest, samples: pd.DataFrame | None = None) -> Audit:
    """Look for what makes numbers on a data set wrong.

    Args:
        manifest: With splits.
        samples: What preparing found of each sample, by sample id: the columns of
            :data:`deepfake.data.crop_store.SAMPLE_COLUMNS`, and ``colours`` (see :mod:`deepfake.data.appearance`)
            where they were looked at. None, before anything is prepared, leaves out near-duplicates, shortcuts and
            coverage.

    Returns:
        The findings; an audit never raises because of them.
    """
    found = Audit()
    table = manifest.table.reset_index(drop=True)
    _count(found, table)
    _groups(found, manifest, table)
    if samples is not None and len(samples):
        known = table.join(samples.drop(columns=["bytes", "sha256"], errors="ignore"), on="sample_id", how="inner")
        known["sha256"] = samples["sha256"].reindex(known["sample_id"]).to_numpy()
        known = known.reset_index(drop=True)
        _coverage(found, known)
        decoded = known[known["width"] > 0].reset_index(drop=True)
        _duplicates(found, decoded)
        _shortcuts(found, decoded)
    return found


def _count(found: Audit, table: pd.DataFrame) -> None:
    label = table["label"].map(_NAMES)
    counts = table.assign(label=label).groupby(["dataset", "label", "method", "split"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=[name for name in SPLITS if name in counts.columns])
    found.tables["samples"] = counts.reset_index()
    found.facts["samples"] = {
        name: {word: int(((table["split"] == name) & (label == word)).sum()) for word in _NAMES.values()}
        for name in SPLITS
    }
    for name, counted in found.facts["samples"].items():
        few, many = sorted(counted.values())
        if few and many / few >= _IMBALANCE:
            found.warnings.append(
                f"{name}: {counted['fake']} fake to {counted['real']} real samples: accuracy says little, "
                "read balanced accuracy and ROC-AUC, and balance the training"
            )
        if name != "train" and 0 < few < _FEW_SAMPLES:
            half = 1.96 * np.sqrt(0.25 / few)
            found.warnings.append(
                f"{name} has only {few} {'sample' if few == 1 else 'samples'} of one class: "
                f"a ROC-AUC on it is uncertain by about {half:.2f} either way"
            )


def _groups(found: Audit, manifest: Manifest, table: pd.DataFrame) -> None:
    found.warnings += manifest.unknown
    component = components(table["groups"])
    sizes = component.value_counts()
    exploded = table[["groups", "label"]].explode("groups")
    both = exploded.groupby("groups")["label"].nunique()
    facts = {
        "groups": len(both),
        "shared": int((exploded["groups"].value_counts() > 1).sum()),
        "in_both_classes": int((both > 1).sum()),
        "largest_chain": int(sizes.max()),
    }
    found.tables["groups (footage or people that samples share)"] = pd.DataFrame([facts])
    found.facts["groups"] = facts
    if facts["shared"]:
        found.warnings.append(
            f"{len(table)} samples come from {facts['groups']} groups of shared footage or people, up to "
            f"{int(exploded['groups'].value_counts().max())} samples in one: split by group, draw intervals over groups"
        )
    if not facts["in_both_classes"] and len(table) >= 20:
        found.warnings.append(
            "no footage is in both classes: no fake has its original here, so what differs between the sources can "
            "stand in for the class"
        )
    crossing = crossing_groups(table)
    found.facts["crossing_groups"] = crossing.to_dict("records")
    if not crossing.empty:
        found.tables["groups in several splits"] = crossing.head(20)
        whose = "published" if manifest.official else "given"
        found.warnings.append(
            f"{len(crossing)} groups ({int(crossing['samples'].sum())} samples) lie in several of the {whose} splits: "
            f"{listed(crossing['group'].tolist())}; dataset.splits=strict makes them disjoint"
        )
    if (table["groups"].map(len) == 1).all() and facts["groups"] == len(table) and len(table) >= 20:
        found.warnings.append(
            "no name tells which samples share footage or a person, so leaks between splits can only show as "
            "near-duplicates"
        )


def _coverage(found: Audit, known: pd.DataFrame) -> None:
    known = known.assign(
        real_fake=known["label"].map(_NAMES),
        decoded=known["width"] > 0,
        usable=known["status"] == "ok",
        no_face=known["status"] == "no_face",
        failed=known["status"] != "ok",
        filled_share=known["filled"] / known["frames"].where(known["frames"] > 0),
    )
    by_class = known.groupby("real_fake").agg(
        samples=("usable", "size"),
        decoded=("decoded", "sum"),
        usable=("usable", "sum"),
        no_face=("no_face", "sum"),
        filled=("filled_share", "mean"),
        failed=("failed", "sum"),
    )
    table = by_class.rename_axis("class").reset_index().fillna(0.0)
    found.tables["coverage"] = table.round({"filled": 4})
    found.facts["coverage"] = {
        str(row["class"]): {k: float(row[k]) for k in by_class.columns} for _, row in table.iterrows()
    }
    if set(by_class.index) == {"real", "fake"}:
        for column, what in (("no_face", "no face is found"), ("failed", "a sample cannot be used")):
            shares = by_class[column] / by_class["samples"]
            if abs(shares["fake"] - shares["real"]) > 0.02 and chance_of_difference(known, column) <= _CHANCE:
                found.warnings.append(
                    f"{what} in {shares['fake']:.1%} of the fakes but {shares['real']:.1%} of the reals: "
                    "what is missing tells the class"
                )
        gap = abs(by_class["filled"]["fake"] - by_class["filled"]["real"])
        looked = known[known["filled_share"].notna()]
        if gap > 0.05 and chance_of_difference(looked, "filled_share") <= _CHANCE:
            found.warnings.append(
                f"the share of frames filled in for a missed face differs by {gap:.1%} between classes"
            )


def _duplicates(found: Audit, known: pd.DataFrame) -> None:
    pairs = near_duplicates(known)
    across = pairs[pairs["split"] != pairs["other_split"]]
    labels = pairs[pairs["label"] != pairs["other_label"]]
    found.facts["near_duplicates"] = {
        "pairs": len(pairs),
        "across_splits": len(across),
        "across_classes": len(labels),
        "examples": across.head(20)[["sample_id", "other", "bits"]].to_dict("records"),
    }
    if not across.empty:
        found.tables["near-duplicates in several splits"] = across.head(20)
        held = set(across["sample_id"]) | set(across["other"])
        found.warnings.append(
            f"{len(held)} samples have a near-duplicate in another split, such as "
            f"{across['sample_id'].iloc[0]} and {across['other'].iloc[0]}"
        )


def _shortcuts(found: Audit, known: pd.DataFrame) -> None:
    rows = []
    for name, shortcut, limit, advice in (
        (
            "metadata",
            metadata_shortcut(known),
            METADATA_LIMIT,
            "dataset.normalise_format=true re-encodes both classes alike",
        ),
        ("framing", framing_shortcut(known), FRAMING_LIMIT, "crop both classes alike, with dataset.faces=mtcnn say"),
        ("colour", colour_shortcut(known), COLOUR_LIMIT, "change them at random in training: augment=strong"),
    ):
        rows.append(
            {
                "from": name,
                "roc_auc": shortcut.roc_auc,
                "p_value": shortcut.p_value,
                "guilty": ", ".join(shortcut.guilty),
                "note": shortcut.reason,
            }
        )
        found.facts[f"{name}_shortcut"] = _shortcut_facts(shortcut)
        if shortcut.tells(limit):
            found.warnings.append(f"{shortcut.sentence} (ROC-AUC {shortcut.roc_auc:.3f}); {advice}")
    found.tables["class from what should not tell it (by other footage; p: by chance alone)"] = pd.DataFrame(rows)


def _shortcut_facts(shortcut: Shortcut) -> dict[str, Any]:
    return {
        "roc_auc": shortcut.roc_auc,
        "p_value": shortcut.p_value,
        "guilty": shortcut.guilty,
        "columns": shortcut.columns,
        "reason": shortcut.reason,
    }
