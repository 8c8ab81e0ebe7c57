"""Which ended jobs of a sweep can no longer be among its best. Reads values; deletes nothing."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from deepfake.sweeping.callbacks import COMPLETED, Job, Objective
from deepfake.sweeping.jobs import dominates


class Contest:
    """The best jobs so far; what loses its place, or never gets one, cannot win any more.

    Args:
        objectives: By one, the best few are kept; by several, the Pareto front, however many lie on it.
        keep: How many the best few are. Of equal values the earlier job's is better.
    """

    def __init__(self, objectives: Sequence[Objective], keep: int) -> None:
        self._objectives = objectives
        self._keep = keep
        # Each with what it is compared by, in which larger is better; of one objective the worst first.
        self._best: list[tuple[list[float], int, Job]] = []

    def enter(self, job: Job) -> list[Job]:
        """Take in a job that has ended, once.

        Returns:
            Those that can no longer win: the job itself, those that it has beaten, or none. A job that was pruned,
            failed, breaks a constraint, or has no number for an objective never wins. One that was told what came of
            another's run is that run once more, and neither takes a place nor loses one.
        """
        values = list(job.values)
        able = job.status == COMPLETED and job.feasible is not False
        if not able or len(values) != len(self._objectives) or not all(map(math.isfinite, values)):
            return [job]
        if job.run_dir is not None and any(one.run_dir == job.run_dir for _, _, one in self._best):
            return []
        gains = [value if item.maximize else -value for value, item in zip(values, self._objectives, strict=True)]
        entry = (gains, -job.number, job)
        if len(gains) == 1:
            bisect.insort(self._best, entry, key=lambda one: one[:2])
            return [] if len(self._best) <= self._keep else [self._best.pop(0)[2]]
        if any(dominates(other, gains) for other, _, _ in self._best):
            return [job]
        beaten = [one for one in self._best if dominates(gains, one[0])]
        self._best = [one for one in self._best if one not in beaten] + [entry]
        return [one for _, _, one in beaten]
