"""A point that is run over several seeds: its seeds, its mean and spread, and when its first ones are enough.

Knows runs by their metrics; neither Optuna nor what a run is.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from scipy.special import stdtrit

from deepfake.errors import UserError
from deepfake.sweeping.callbacks import SeedRun
from deepfake.sweeping.options import SweepOptions

#: The fact of a trial that holds its finished runs.
RUNS = "runs"
#: How likely the truly best point is dropped by its first seeds, at most, where the spread over seeds is normal and
#: alike for all points.
RISK = 0.05
#: From so many degrees of freedom on, the spread over seeds is taken to be known.
_LEAST_FREEDOM = 4


@dataclass(frozen=True)
class Repeats:
    """The seeds that each point is run over: the config's own and those that follow it.

    Attributes:
        key: Of the config.
    """

    key: str
    first: int
    count: int

    def seeds(self) -> list[int]:
        """All of them, in order."""
        return list(range(self.first, self.first + self.count))

    def override(self, repeat: int) -> str:
        """What is laid over a point's config for one of its runs."""
        return f"{self.key}={self.first + repeat}"


def parse_repeats(options: SweepOptions, swept: Collection[str], config: DictConfig) -> Repeats | None:
    """The seeds of ``sweep.repeats``; None for one run a point.

    Args:
        swept: The keys that a point chooses.
        config: As composed for the sweep.

    Raises:
        UserError: There is no such seed, it is swept, the pruner pauses trials, or they are trained together.
    """
    if options.repeats == 1:
        return None
    what, key = f"sweep.repeats={options.repeats}", options.seed_key
    if key is None:
        raise UserError(f"{what} needs the key that holds a run's seed", "give sweep.seed_key=<key>")
    if key in {one.lstrip("+") for one in swept}:
        raise UserError(
            f"{what} runs each point over several seeds, and {key} is swept",
            f"leave one of them out; {key}=0 fixes the first seed",
        )
    first = OmegaConf.select(config, key)
    if type(first) is not int:
        raise UserError(f"{what} counts {key} on, and it is {first!r}", f"give {key}=0, or another sweep.seed_key")
    if options.pruner.get("name") == "promote":
        raise UserError(
            f"{what} and pruner=promote do not go together: a paused trial would wait in mid-point",
            "take pruner=asha, or leave sweep.repeats out and run the best over search=seeds",
        )
    if options.fuse > 1:
        raise UserError(
            f"{what} runs a point's seeds one after another, and sweep.fuse={options.fuse} trials side by side",
            "leave one of them out",
        )
    return Repeats(key, first, options.repeats)


def mean_metrics(runs: Sequence[SeedRun], wanted: Collection[str] = ()) -> dict[str, float]:
    """The mean of each metric that all of them have.

    Ends of intervals are left out, as their mean is no interval's end, but for those that are ``wanted``.
    """
    names = set.intersection(*(set(run.metrics) for run in runs)) if runs else set()
    kept = sorted(name for name in names if name in wanted or not is_end(name, names))
    return {name: statistics.fmean(run.metrics[name] for run in runs) for name in kept}


def deviation(runs: Sequence[SeedRun], metric: str) -> float | None:
    """The sample's standard deviation of a metric over the seeds; None for fewer than two runs that have it."""
    values = [run.metrics[metric] for run in runs if metric in run.metrics]
    return statistics.stdev(values) if len(values) > 1 else None


def is_end(name: str, names: Collection[str]) -> bool:
    """Whether a metric is an end of another's interval."""
    stem, _, end = name.rpartition("_")
    return end in ("low", "high") and f"{stem}_low" in names and f"{stem}_high" in names


def clearly_worse(values: Sequence[float], others: Sequence[Sequence[float]], maximize: bool) -> bool:
    """Whether a point cannot be the best by its first seeds, but for a small risk.

    It is dropped where the best mean so far is above its own by more than t standard errors of the difference. The
    deviation is pooled over the other points, and t is that quantile of Student's distribution which one comparison
    exceeds with a probability of ``RISK`` over the number of comparisons: with each of the other points, after each
    seed but the last. So the truly best point is dropped with a probability of at most ``RISK`` in all, however lucky
    the best so far was.

    Args:
        values: Of the point, by seed, fewer than the others have.
        others: The points that were run over all seeds, and may be the best.
        maximize: Which way is better.

    Example:
        >>> others = [[0.90, 0.91, 0.92], [0.80, 0.82, 0.81], [0.85, 0.86, 0.84]]
        >>> clearly_worse([0.70], others, maximize=True), clearly_worse([0.89], others, maximize=True)
        (True, False)
    """
    freedom = sum(len(runs) - 1 for runs in others)
    if not values or freedom < _LEAST_FREEDOM:
        return False
    count = len(others[0])
    pooled = math.sqrt(sum((len(runs) - 1) * statistics.variance(runs) for runs in others) / freedom)
    error = pooled * math.sqrt(1 / len(values) + 1 / count)
    sign = 1.0 if maximize else -1.0
    best = max(sign * statistics.fmean(runs) for runs in others)
    looks = len(others) * (count - 1)
    return best - sign * statistics.fmean(values) > _quantile(RISK / looks, freedom) * error


@functools.lru_cache(maxsize=4096)
def _quantile(risk: float, freedom: int) -> float:
    """What Student's t exceeds with a probability of ``risk``."""
    return -float(stdtrit(freedom, risk))


def to_record(run: SeedRun) -> dict[str, Any]:
    """What is recorded of a run with its trial."""
    return asdict(run)


def from_record(record: Mapping[str, Any]) -> SeedRun:
    """The run again."""
    return SeedRun(**record)
