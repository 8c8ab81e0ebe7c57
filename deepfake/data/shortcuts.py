"""How well a sample's class follows from what should say nothing of it: its file's format, its framing, its colours.

Whether that is more than chance is asked of the same measure under shuffled classes, so that a small set, on which
any measure reaches far, raises no alarm. Knows tables only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepfake.data.appearance import flattened
from deepfake.data.cropping import THUMBNAIL
from deepfake.data.splits import components

Floats = NDArray[np.float64]

#: The facts of a file that a model may not need to see.
METADATA = (
    "width",
    "height",
    "video_frames",
    "duration",
    "fps",
    "bitrate",
    "bytes",
    "codec",
    "pixel_format",
    "quality",
)
#: The share of sets without a shortcut in which one is found all the same; three kinds are looked for.
CHANCE = 0.001
_SHUFFLES, _SHUFFLES_AT_FIRST = 1999, 199
_UNLIKELY = 0.05  # what the first shufflings do as often as this is chance, and no more are made
_MOST = 2000  # samples looked at, each of another footage: more change the third digit only
_LEAST = 10  # samples of each class below which nothing can be said
_FOOTAGES = 5  # of each class, likewise
_ENOUGH = 20  # chains of shared footage in each class; fewer are taken apart
_RIDGE = 300.0
_NEVER = 1e-9


@dataclass
class Shortcut:
    """One way to the label past the face.

    Attributes:
        roc_auc: Of the measure that stands out most from what it is under shuffled classes, scaled so that what
            stands out most there is 0.5 on the average; None where it cannot be had.
        p_value: The fraction of shufflings of the classes under which something stands out as far.
        columns: The ROC-AUC of each column alone, scaled so that its mean under shuffled classes is 0.5.
        guilty: The columns that alone come close to it, worst first.
        reason: Why there is no ROC-AUC; else empty.
        sentence: The finding as a sentence.
    """

    roc_auc: float | None = None
    p_value: float | None = None
    columns: dict[str, float] = field(default_factory=dict)
    guilty: list[str] = field(default_factory=list)
    reason: str = ""
    sentence: str = ""

    def tells(self, limit: float) -> bool:
        """Whether it is no chance, and tells the class better than a ROC-AUC of ``limit``."""
        return bool(self.roc_auc is not None and self.roc_auc > limit and (self.p_value or 0.0) <= CHANCE)


def metadata_shortcut(table: pd.DataFrame) -> Shortcut:
    """The class from the columns of :data:`METADATA` alone.

    Each column alone, in either direction and in steps, each two columns together, and all of them by their summed
    log-odds, each sample by the others'.

    Args:
        table: Samples that were decoded, with ``label``, ``groups`` and these columns.
    """
    chosen, reason = _independent(table)
    if reason:
        return Shortcut(reason=reason)
    facts = pd.DataFrame({name: _numbers(chosen[name]) for name in METADATA if name in chosen})
    facts = facts.loc[:, facts.nunique() > 1]
    if facts.empty:
        return Shortcut(0.5, 1.0, sentence="files differ in nothing but their pictures")
    return _tested(lambda shuffles: _told_by_files(facts, chosen, shuffles))


def framing_shortcut(table: pd.DataFrame) -> Shortcut:
    """The class from a 16 x 16 grey thumbnail by a linear model: framing and background, no trace of manipulation.

    Args:
        table: Samples that were decoded, with ``label``, ``groups`` and ``thumbnail`` (256 bytes in base64).
    """
    pictures = pd.Series([thumbnail_of(text) for text in table.get("thumbnail", [])], dtype=object)
    chosen, reason = _independent(
        table.iloc[: len(pictures)].assign(picture=pictures.to_numpy())[pictures.notna().to_numpy()]
    )
    if reason:
        return Shortcut(reason=reason)
    pixels = np.stack([flattened(picture) for picture in chosen["picture"]])
    said = "how pictures are framed tells the class: a 16-pixel grey thumbnail is enough"
    return _told_linearly(pixels, chosen, said)


def colour_shortcut(table: pd.DataFrame) -> Shortcut:
    """The class from means, deviations and histograms of the colour channels by a linear model.

    Args:
        table: Samples with ``label``, ``groups`` and ``colours`` (:func:`deepfake.data.appearance.colours`, or NaN).
    """
    known = table["colours"].notna() if "colours" in table else pd.Series(False, table.index)
    chosen, reason = _independent(table[known])
    if reason:
        return Shortcut(reason=reason)
    said = "colours tell the class: means, spreads and histograms of the channels are enough"
    return _told_linearly(np.stack(list(chosen["colours"])), chosen, said)


def _tested(test: Callable[[int], Shortcut]) -> Shortcut:
    """What a test of so many shufflings finds: of a few, and of many where these do not settle it."""
    found = test(_SHUFFLES_AT_FIRST)
    return found if (found.p_value or 0.0) > _UNLIKELY else test(_SHUFFLES)


def _told_by_files(facts: pd.DataFrame, chosen: pd.DataFrame, shuffles: int) -> Shortcut:
    labels, partner = _shuffled(chosen, shuffles), _partners(chosen)
    measures = _alone(facts, labels)
    names: list[tuple[str, ...]] = [(name,) for name in measures]
    found = [np.maximum.reduce(values) for values in measures.values()]
    if len(facts.columns) > 1:
        pairs, values = _together(facts, labels)
        names += pairs
        found += values
        found.append(_log_odds(facts, labels, partner))
        names.append(())
    scaled, together, p_value, best = _stands_out(np.stack(found))
    alone = {name[0]: float(value) for name, value in zip(names, scaled, strict=True) if len(name) == 1}
    guilty = [name for name in sorted(alone, key=lambda n: -alone[n]) if alone[name] > 0.5 + 0.8 * (together - 0.5)]
    guilty = guilty[:3] or list(names[best] or sorted(alone, key=lambda n: -alone[n])[:1])
    said = f"metadata alone tells the class, {', '.join(guilty)} above all"
    return Shortcut(together, p_value, alone, guilty, sentence=said)


def _told_linearly(values: NDArray[np.float32], chosen: pd.DataFrame, sentence: str) -> Shortcut:
    """What a linear model tells from columns [N, D], each sample's class by the others'."""
    columns = values.astype(np.float64)
    columns = (columns - columns.mean(0)) / (columns.std(0) + 1e-6)
    partner = _partners(chosen)

    def test(shuffles: int) -> Shortcut:
        found = _ridge(columns, _shuffled(chosen, shuffles), partner)
        _, together, p_value, _ = _stands_out(found[None])
        return Shortcut(together, p_value, sentence=sentence)

    return _tested(test)


def thumbnail_of(text: object) -> NDArray[np.uint8] | None:
    """The uint8 [16, 16] picture behind its base64 text; None where there is none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    if len(data) != THUMBNAIL**2:
        return None
    return np.frombuffer(data, np.uint8).reshape(THUMBNAIL, THUMBNAIL)


def independent_samples(table: pd.DataFrame) -> pd.DataFrame:
    """One sample of each class for each footage, drawn by a fixed seed: their classes can be shuffled.

    Files of one footage are alike in what has nothing to do with the class, so that only one of them counts. Where
    shared people chain nearly everything together, the footage named first stands for a chain that is in both classes.

    Returns:
        The rows drawn, with the footage as ``unit``.
    """
    unit = components(table["groups"]).astype(str)
    if unit.groupby(table["label"]).nunique().min() < _ENOUGH:
        # Within a chain of one class only, what its samples share could be taken for the class's.
        both = table["label"].groupby(unit).transform("nunique") == 2
        unit = unit.where(~both, unit + "/" + table["groups"].map(lambda groups: groups[0]))
    drawn = table.assign(unit=unit).sample(frac=1.0, random_state=0).drop_duplicates(["unit", "label"])
    return drawn.head(_MOST).sort_index()


def chance_of_difference(table: pd.DataFrame, column: str) -> float:
    """The fraction of shufflings of the classes under which the classes' means of a column are as far apart.

    Args:
        table: Samples with ``label``, ``groups`` and the column, a number or a truth for each.
    """
    drawn = independent_samples(table)
    if drawn["label"].nunique() < 2:
        return 1.0
    values = drawn[column].to_numpy(dtype=np.float64)
    chance = _as_far_apart(drawn, values, _SHUFFLES_AT_FIRST)
    return chance if chance > _UNLIKELY else _as_far_apart(drawn, values, _SHUFFLES)


def _as_far_apart(drawn: pd.DataFrame, values: Floats, shuffles: int) -> float:
    labels = _shuffled(drawn, shuffles)
    fakes = labels.sum(1)
    apart = np.abs(labels @ values / fakes - (1 - labels) @ values / (len(drawn) - fakes))
    return float((apart >= apart[0] - _NEVER).mean())


def _independent(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    counts = table["label"].value_counts()
    if len(counts) < 2 or counts.min() < _LEAST:
        return table, f"fewer than {_LEAST} samples of one class"
    drawn = independent_samples(table)
    few = len(set(drawn["label"])) < 2 or drawn["label"].value_counts().min() < _FOOTAGES
    return drawn, f"fewer than {_FOOTAGES} groups in one class" if few else ""


def _shuffled(chosen: pd.DataFrame, shuffles: int) -> Floats:
    """The classes as they are, then shuffled again and again: [1 + shuffles, N]."""
    classes = chosen["label"].to_numpy(dtype=np.float64)
    rng = np.random.default_rng(0)
    return np.concatenate([classes[None], rng.permuted(np.tile(classes, (shuffles, 1)), axis=1)])


def _partners(chosen: pd.DataFrame) -> NDArray[np.int64]:
    """For each row that of the same footage, which must not help to tell it; itself where there is none."""
    rows = pd.Series(np.arange(len(chosen)), index=chosen.index)
    both = rows.groupby(chosen["unit"]).transform("sum")
    size = rows.groupby(chosen["unit"]).transform("size")
    return np.asarray(np.where(size == 2, both - rows, rows), dtype=np.int64)


def _numbers(column: pd.Series) -> Floats:
    """Numbers as they are; words by their place in the alphabet, which the steps take for no order."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64)
    codes, _ = pd.factorize(column.astype(str), sort=True)
    return codes.astype(np.float64)


def _alone(facts: pd.DataFrame, labels: Floats) -> dict[str, list[Floats]]:
    """Two measures of each column, under each row of labels: by its order, and in steps that need not rise."""
    measures = {}
    steps = int(np.clip(np.sqrt(len(facts)) / 1.5, 3, 12))
    for name in facts:
        values = facts[name].to_numpy()
        order = np.abs(_auc_of_ranks(np.tile(facts[name].rank().to_numpy(), (len(labels), 1)), labels) - 0.5)
        stepwise = _auc_of_steps(_steps(values, steps), labels)
        measures[str(name)] = [_centred(0.5 + order), _centred(stepwise)]
    return measures


def _centred(found: Floats) -> Floats:
    """A measure scaled so that its mean over shuffled classes is 0.5, and 1 stays 1."""
    chance = min(float(found.mean()), 1 - _NEVER)
    return np.asarray(0.5 + 0.5 * (found - chance) / (1 - chance))


def _together(facts: pd.DataFrame, labels: Floats) -> tuple[list[tuple[str, ...]], list[Floats]]:
    """Each two columns, in steps of both."""
    steps = int(np.clip(len(facts) ** (1 / 3) / 1.5, 2, 4))
    coarse = {str(name): _steps(facts[name].to_numpy(), steps) for name in facts}
    names: list[tuple[str, ...]] = list(combinations(coarse, 2))
    found = []
    for one, other in names:
        cells = coarse[one] * (int(coarse[other].max()) + 1) + coarse[other]
        found.append(_auc_of_steps(np.unique(cells, return_inverse=True)[1], labels))
    return names, found


def _steps(values: Floats, most: int) -> NDArray[np.int64]:
    """A few equally filled steps, or, where there are few different values, each of these; numbered from 0."""
    different, codes = np.unique(values, return_inverse=True)
    if len(different) > most:
        edges = np.unique(np.quantile(values, np.arange(1, most) / most))
        codes = np.unique(np.searchsorted(edges, values, "right"), return_inverse=True)[1]
    return np.asarray(codes, dtype=np.int64)


def _auc_of_steps(steps: NDArray[np.int64], labels: Floats) -> Floats:
    """ROC-AUC of the share of fakes in each step, for each row of labels."""
    inside = np.eye(int(steps.max()) + 1)[steps]  # [N, K]
    fakes, sizes = labels @ inside, inside.sum(0)
    order = np.argsort(fakes / sizes, axis=1)
    fakes = np.take_along_axis(fakes, order, 1)
    reals = sizes[order] - fakes
    won = (fakes * (np.cumsum(reals, axis=1) - reals / 2)).sum(1)
    return np.asarray(won / (fakes.sum(1) * reals.sum(1)))


def _log_odds(facts: pd.DataFrame, labels: Floats, partner: NDArray[np.int64]) -> Floats:
    """ROC-AUC of all columns by their summed log-odds, each sample's told by the other footages (naive Bayes)."""
    steps = int(np.clip(np.sqrt(len(facts)) / 1.5, 3, 12))
    paired = (partner != np.arange(len(partner))).astype(np.float64)
    scores = np.zeros_like(labels)
    for name in facts:
        bins = _steps(facts[name].to_numpy(), steps)
        inside = np.eye(int(bins.max()) + 1)[bins]
        alike = paired * (bins == bins[partner])
        fakes = (labels @ inside)[:, bins] - labels - alike * labels[:, partner]
        reals = inside.sum(0)[bins] - 1 - alike - fakes
        scores += np.log((fakes + 0.5) / (reals + 0.5))
    return _auc_of_ranks(_ranks(scores), labels)


def _ridge(pixels: Floats, labels: Floats, partner: NDArray[np.int64]) -> Floats:
    """ROC-AUC of a linear model's scores, each sample's from the model without its footage.

    Leaving out needs no second fit: with the hat matrix H of ridge regression, what a left-out block's residual would
    be is (I - H of the block)^-1 times its residual.
    """
    count = len(pixels)
    kernel = pixels @ pixels.T
    hat = np.linalg.solve(kernel + _RIDGE * np.eye(count), kernel)
    hat += (1 - hat.sum(1, keepdims=True)) / count  # what the model leaves of the mean
    residual = labels - labels @ hat.T
    unexplained = 1 - np.diagonal(hat)
    paired = partner != np.arange(count)
    across = np.where(paired, -hat[np.arange(count), partner], 0.0)
    back = np.where(paired, -hat[partner, np.arange(count)], 0.0)
    other = np.where(paired, unexplained[partner], 1.0)
    left_out = (other * residual - across * residual[:, partner]) / (unexplained * other - across * back)
    return _auc_of_ranks(_ranks(labels - left_out), labels)


def _ranks(scores: Floats) -> Floats:
    """The rank of each score in its row, the mean one where several are equal (but for rounding)."""
    rounded = np.round(scores, 9)
    order = np.argsort(rounded, axis=1, kind="stable")
    ordered = np.take_along_axis(rounded, order, 1)
    places = np.arange(scores.shape[1])
    new = np.ones(scores.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(new, places, 0), axis=1)
    ends = np.ones(scores.shape, bool)
    ends[:, :-1] = new[:, 1:]
    last = np.minimum.accumulate(np.where(ends, places, scores.shape[1])[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty_like(scores)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, 1)
    return ranks


def _auc_of_ranks(ranks: Floats, labels: Floats) -> Floats:
    """ROC-AUC of each row of ranks [P, N] for its row of labels."""
    fakes = labels.sum(1)
    reals = labels.shape[1] - fakes
    return np.asarray(((ranks * labels).sum(1) - fakes * (fakes + 1) / 2) / (fakes * reals))


def _stands_out(found: Floats) -> tuple[Floats, float, float, int]:
    """How far measures [M, 1 + shuffles] are, under the true classes, from what they are under shuffled ones.

    Returns:
        The measures under the true classes, scaled; the one that stands out most, scaled once more by what stands
        out most under shuffled classes; the fraction of shufflings (the true classes counted among them) in which any
        measure stands out, in its own deviations, as far as any does under the true ones (the permutation test of
        the largest statistic, Westfall & Young 1993); and which that is.
    """
    spread = np.maximum(found.std(1, keepdims=True), _NEVER)
    out = (found - found.mean(1, keepdims=True)) / spread
    largest, best = out.max(0), out.argmax(0)
    scaled = np.stack([_centred(values) for values in found])
    most = _centred(scaled[best, np.arange(found.shape[1])])
    return scaled[:, 0], float(most[0]), float((largest >= largest[0] - _NEVER).mean()), int(best[0])
