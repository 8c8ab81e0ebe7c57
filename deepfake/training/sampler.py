"""Which clips make each step's batch. Knows no model.

The order of an epoch is a function of (seed, epoch) alone, so a run can be entered at any step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepfake.data.clips import ClipSource
from deepfake.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """Which clips train together, epoch by epoch.

    Attributes:
        labels: float [n], of all training clips.
        batch_size: Over all processes; the last, partial batch of an epoch is left out unless it is the only one.
        seed: With the epoch, decides the order.
        balanced: Draw both classes equally often: the rarer class's clips come several times in an epoch.
    """

    labels: np.ndarray
    batch_size: int
    seed: int
    balanced: bool = False

    def __len__(self) -> int:
        """Batches in an epoch."""
        return max(1, len(self.labels) // self.batch_size)

    def batches(self, epoch: int) -> list[list[int]]:
        """The items of each batch of an epoch, over all processes."""
        order = self._order(np.random.default_rng([self.seed, epoch]))
        size = min(self.batch_size, len(order))
        return [order[i * size : (i + 1) * size].tolist() for i in range(len(self))]

    def _order(self, generator: np.random.Generator) -> np.ndarray:
        n = len(self.labels)
        classes = [np.flatnonzero(self.labels == value) for value in (0, 1)]
        if not self.balanced or any(len(members) == 0 for members in classes):
            return generator.permutation(n)
        drawn = [_cycle(members, n // 2 + 1, generator) for members in classes]
        # Alternating and then shuffling in pairs keeps every batch half real, half fake.
        return np.stack([_flip(pair, generator) for pair in zip(*drawn, strict=True)]).reshape(-1)[:n]


def plan_batches(
    source: ClipSource, batch_size: int, seed: int, balanced: bool, world_size: int
) -> tuple[BatchPlan, list[str]]:
    """A plan for a training split, and what had to be changed for it.

    Args:
        source: The training split.
        batch_size: Clips a step over all processes; one larger than the split shrinks to it, with a note.
        seed: Decides the order.
        balanced: See :class:`BatchPlan`.
        world_size: Processes that share each batch.

    Raises:
        UserError: No clips to train on, or fewer in a batch than processes.
    """
    notes = []
    n = len(source)
    if n == 0:
        raise UserError("the train split has no clips", "see the run's manifest for what failed and why")
    if batch_size > n:
        notes.append(f"trainer.batch_size={batch_size} is larger than the train split: shrunk to its {n} clips")
        batch_size = n
    if batch_size < world_size:
        raise UserError(
            f"a batch of {batch_size} cannot be shared by {world_size} processes",
            f"set trainer.batch_size to at least {world_size}, or start fewer processes",
        )
    return BatchPlan(np.asarray(source.labels), batch_size, seed, balanced), notes


def part_of(batch: Sequence[int], rank: int, world_size: int) -> list[int]:
    """The part of a batch that one process takes; all parts together are the batch."""
    return list(batch[rank::world_size])


def _cycle(members: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """``count`` of the members: each once in random order, then each again, until there are enough."""
    rounds = -(-count // len(members))
    return np.concatenate([generator.permutation(members) for _ in range(rounds)])[:count]


def _flip(pair: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    return np.array(pair)[:: 1 if generator.random() < 0.5 else -1]
