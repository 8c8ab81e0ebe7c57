"""Which clips make each step's batch. Knows no model.

The order of an epoch is a function of (seed, epoch) alone, so a run can be entered at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepfake.data.clips import ClipSource
from deepfake.errors import UserError

#: Balances that draw both classes equally often, each with the column by whose values a class is drawn equally often
#: in turn; None draws its clips as they are.
DRAWN: dict[str, str | None] = {"sampler": None, "method": "method", "set": "dataset", "identity": "groups"}


@dataclass(frozen=True)
class BatchPlan:
    """Which clips train together, epoch by epoch.

    Attributes:
        labels: float [n], of all training clips.
        batch_size: Over all processes; the last, partial batch of an epoch is left out unless it is the only one.
        seed: With the epoch, decides the order.
        balanced: Draw both classes equally often: the rarer class's clips come several times in an epoch.
        strata: Items of one class each, which are drawn equally often within it; an item may be in several. Empty
            where a class is drawn as it is.
        originals: Of each item, the items that show what it was made from; a fake is followed or preceded by one of
            them. Empty where any real clip will do.
        labels_in: The labels as of an epoch, where real clips are made fakes; None where they stay.
    """

    labels: np.ndarray
    batch_size: int
    seed: int
    balanced: bool = False
    strata: tuple[np.ndarray, ...] = ()
    originals: tuple[np.ndarray, ...] = ()
    labels_in: Callable[[int], np.ndarray] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return max(1, len(self.labels) // self.batch_size)

    def batches(self, epoch: int) -> list[list[int]]:
        """The items of each batch of an epoch, over all processes."""
        labels = self.labels if self.labels_in is None else self.labels_in(epoch)
        order = self._order(labels, np.random.default_rng([self.seed, epoch]))
        size = min(self.batch_size, len(order))
        return [order[i * size : (i + 1) * size].tolist() for i in range(len(self))]

    def _order(self, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        n = len(labels)
        present = [value for value in (0, 1) if (labels == value).any()]
        if len(present) < 2:
            return self._drawn(labels, present[0], n, generator) if self.strata else generator.permutation(n)
        if not self.balanced:
            return generator.permutation(n)
        reals, fakes = (self._drawn(labels, value, n // 2 + 1, generator) for value in present)
        if self.originals:
            reals = self._beside(labels, fakes, reals, generator)
        # Alternating and then shuffling in pairs keeps every batch half real, half fake.
        return np.stack([_flip(pair, generator) for pair in zip(reals, fakes, strict=True)]).reshape(-1)[:n]

    def _drawn(self, labels: np.ndarray, label: int, count: int, generator: np.random.Generator) -> np.ndarray:
        """So many items of a class, of each of its strata equally many; what is made of one's reals is another one."""
        strata = [part for members in self.strata if len(part := members[labels[members] == label])]
        if not strata:
            return _cycle(np.flatnonzero(labels == label), count, generator)
        turns = _cycle(np.arange(len(strata)), count, generator)
        drawn = np.empty(count, np.int64)
        for number, members in enumerate(strata):
            places = np.flatnonzero(turns == number)
            drawn[places] = _cycle(members, len(places), generator)
        return drawn

    def _beside(
        self, labels: np.ndarray, fakes: np.ndarray, others: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """For each fake one of its originals that is real in this epoch, or the other real where it has none."""
        chances = generator.random(len(fakes))
        found = [self.originals[fake] for fake in fakes]
        found = [of[labels[of] == 0] for of in found]
        return np.array(
            [
                of[int(chance * len(of))] if len(of) else other
                for of, other, chance in zip(found, others, chances, strict=True)
            ]
        )


def plan_batches(
    source: ClipSource,
    batch_size: int,
    seed: int,
    world_size: int,
    balance: str = "none",
    pairs: bool = False,
) -> tuple[BatchPlan, list[str]]:
    """A plan for a training split, and what had to be changed for it.

    Args:
        source: The training split.
        batch_size: Clips a step over all processes; one larger than the split shrinks to it, with a note.
        seed: Decides the order.
        world_size: Processes that share each batch.
        balance: One of :data:`DRAWN` draws both classes equally often, anything else clips as they are.
        pairs: Draw both classes equally often, each fake beside an original of its own where it has one.

    Raises:
        UserError: No clips to train on, fewer in a batch than processes, or no fake has an original.
    """
    notes = []
    n = len(source)
    if n == 0:
        raise UserError("the train split has no clips", "see the run's manifest for what failed and why")
    if batch_size > n:
        notes.append(f"trainer.batch_size={batch_size} is larger than the train split: shrunk to its {n} clips")
        batch_size = n
    originals: tuple[np.ndarray, ...] = ()
    if pairs:
        originals = _originals(source)
        notes += _note_of_pairs(source, originals)
        if batch_size % 2:
            batch_size -= 1
            notes.append(f"trainer.pairs=true: batches of {batch_size + 1} hold {batch_size // 2} pairs")
    if batch_size < max(1, world_size):
        raise UserError(
            f"a batch of {batch_size} cannot be shared by {world_size} processes",
            f"set trainer.batch_size to at least {max(2 if pairs else 1, world_size)}, or start fewer processes",
        )
    column = DRAWN.get(balance)
    strata = () if column is None else _strata(source, column)
    balanced = pairs or balance in DRAWN
    labels = np.asarray(source.labels)
    return BatchPlan(labels, batch_size, seed, balanced, strata, originals, source.labels_in), notes


def part_of(batch: Sequence[int], rank: int, world_size: int) -> list[int]:
    """The part of a batch that one process takes; all parts together are the batch."""
    return list(batch[rank::world_size])


def _strata(source: ClipSource, column: str) -> tuple[np.ndarray, ...]:
    """The items of each class and value of a column; a sample that has several values is in several."""
    items: dict[tuple[int, str], list[int]] = {}
    values = [_values(held) for held in source.table[column]]
    for item, row in enumerate(source.items[:, 0].tolist()):
        for value in values[row]:
            items.setdefault((int(source.labels[item]), value), []).append(item)
    return tuple(np.array(items[key]) for key in sorted(items))


def _values(held: object) -> list[str]:
    """The groups of a sample, or its one value of another column."""
    several = isinstance(held, Iterable) and not isinstance(held, str)
    return sorted({str(value) for value in held}) if several else [str(held)]  # type: ignore[attr-defined]


def _originals(source: ClipSource) -> tuple[np.ndarray, ...]:
    """Of each item the clips of its sample's originals: those at the same time where there are any, else all."""
    clips: dict[int, list[int]] = {}
    for item, row in enumerate(source.items[:, 0].tolist()):
        clips.setdefault(row, []).append(item)
    made_from = _made_from(source.table)
    found = []
    for row, number in source.items.tolist():
        of = [item for original in made_from.get(row, ()) for item in clips.get(original, ())]
        same = [item for item in of if source.items[item, 1] == number]
        found.append(np.array(same or of, np.int64))
    return tuple(found)


def _made_from(table: pd.DataFrame) -> dict[int, list[int]]:
    """The rows of reals that each fake's row was made from.

    That is the sample that its layout names as ``original``; in a data set that names none, the reals that share a
    group with the fake.
    """
    labels, sets, ids = (table[column].tolist() for column in ("label", "dataset", "sample_id"))
    named = table["original"].fillna("").tolist() if "original" in table else [""] * len(table)
    groups = [_values(held) for held in table["groups"]]
    rows = {(sets[row], ids[row]): row for row in range(len(table))}
    telling = {sets[row] for row, name in enumerate(named) if name}
    reals: dict[tuple[str, str], set[int]] = {}
    for row in np.flatnonzero(np.array(labels) == 0).tolist():
        for group in groups[row]:
            reals.setdefault((sets[row], group), set()).add(row)
    found: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.array(labels) == 1).tolist():
        if sets[row] in telling:
            original = rows.get((sets[row], named[row]))
            found[row] = [] if original is None else [original]
        else:
            found[row] = sorted(set().union(*(reals.get((sets[row], group), set()) for group in groups[row])))
    return found


def _note_of_pairs(source: ClipSource, originals: Sequence[np.ndarray]) -> list[str]:
    fakes = np.flatnonzero(np.asarray(source.labels) == 1).tolist()
    alone = sum(len(originals[fake]) == 0 for fake in fakes)
    if alone == len(fakes):
        raise UserError(
            f"trainer.pairs=true, and none of the {len(fakes)} fake training clips has its original among the others",
            "leave trainer.pairs out, or add the originals: a fake and its original have a group in common",
        )
    if not alone:
        return []
    return [f"trainer.pairs=true: {alone} of {len(fakes)} fake clips have no original and stand beside any real one"]


def _cycle(members: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """``count`` of the members: each once in random order, then each again, until there are enough."""
    rounds = -(-count // len(members))
    return np.concatenate([members[:0], *(generator.permutation(members) for _ in range(rounds))])[:count]


def _flip(pair: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    return np.array(pair)[:: 1 if generator.random() < 0.5 else -1]
