"""What a point must keep to be among the best: ``latency_ms <= 20``, read from words and held against metrics.

Knows metrics by their names; neither Optuna nor what a run is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepfake.errors import UserError, nearest
from deepfake.sweeping.callbacks import Job

_WRITTEN = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=)\s*([^\s<>=!]+)\s*")
_HINT = 'write a metric, <= or >=, and a number: sweep.constraints=["latency_ms <= 20"]'


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric that runs log.

    Attributes:
        metric: Its name.
        at_most: Whether the metric may not be above the limit; otherwise it may not be below.
        limit: In the metric's own unit.
    """

    metric: str
    at_most: bool
    limit: float

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.at_most else '>='} {self.limit:g}"

    def excess(self, value: float) -> float:
        """By how much a value breaks it, as a fraction of the limit; zero or less where it is kept.

        A fraction, so that milliseconds and millions of parameters may be added up. Of a limit of 0 the difference.
        """
        beyond = value - self.limit if self.at_most else self.limit - value
        return beyond / (abs(self.limit) or 1.0)


def parse_constraints(given: Any) -> list[Constraint]:
    """``sweep.constraints``: one text, or a list of them.

    Raises:
        UserError: A text that is no bound on a metric, or the same bound twice.
    """
    texts = given if isinstance(given, list) else [] if given is None else [given]
    found = [_parse(text) for text in texts]
    for number, one in enumerate(found):
        if any((one.metric, one.at_most) == (other.metric, other.at_most) for other in found[:number]):
            raise UserError(f"sweep.constraints bounds {one.metric} twice from the same side", "leave one of them out")
    return found


def are_kept(constraints: Sequence[Constraint], metrics: Mapping[str, float]) -> bool | None:
    """Whether metrics keep all of them; None where there are none, or where one's metric is not known."""
    values = [metrics.get(one.metric, math.nan) for one in constraints]
    if not constraints or not all(map(math.isfinite, values)):
        return None
    return all(one.excess(value) <= 0 for one, value in zip(constraints, values, strict=True))


def nearest_to_feasible(constraints: Sequence[Constraint], jobs: Sequence[Job]) -> tuple[Job, str] | None:
    """The job that breaks the constraints least, and how; None where none has all the metrics."""

    def broken(job: Job) -> float:
        return sum(max(0.0, one.excess(job.metrics[one.metric])) for one in constraints)

    able = [job for job in jobs if are_kept(constraints, job.metrics) is not None]
    if not able:
        return None
    job = min(able, key=broken)
    return job, ", ".join(
        f"{one.metric} {job.metrics[one.metric]:.4g}" for one in constraints if one.excess(job.metrics[one.metric]) > 0
    )


def _parse(text: object) -> Constraint:
    match = _WRITTEN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise UserError(f"sweep.constraints: {text!r} bounds no metric", _HINT)
    metric, sign, number = match.groups()
    limit, swapped = _number(number), _number(metric)
    if limit is None and swapped is not None:
        turned = ">=" if sign == "<=" else "<="
        raise UserError(f"sweep.constraints: {text!r} begins with a number", f'write "{number} {turned} {metric}"')
    if limit is None or not math.isfinite(limit):
        raise UserError(f"sweep.constraints: {number!r} in {text!r} is no number", _HINT)
    return Constraint(metric, sign == "<=", limit)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def nobody_logs(constraint: Constraint, metrics: Mapping[str, float]) -> UserError:
    """The mistake of bounding what no run logs."""
    return UserError(
        f"sweep.constraints: no run logs {constraint.metric!r} of {str(constraint)!r}",
        nearest(constraint.metric, metrics),
    )
