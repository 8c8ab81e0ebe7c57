"""A study run by several workers in pretended time: when each trial's epochs end, and who dies when, is drawn."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import TrialState

from deepfake.sweeping.callbacks import COMPLETED, FAILED, PRUNED, Job
from deepfake.sweeping.claims import Claim, Claims
from deepfake.sweeping.study import Study
from deepfake.sweeping.study_plan import StudyPlan

#: How often a worker without a trial asks again, as a fraction of a mean trial.
_PAUSE = 0.05

Row = tuple[int, str, dict[str, Any], dict[int, float], list[float]]


@dataclass
class Run:
    """How a pretended study went.

    Attributes:
        table: Of each trial its number, state, point, reports and values.
        seconds: From its beginning to its end, in pretended time; a trial takes one on average.
        busy: The fraction of that time for which its workers had a trial.
    """

    table: list[Row]
    seconds: float
    busy: float


@dataclass
class _Worker:
    claims: Claims
    claim: Claim | None = None
    epochs: list[int] = field(default_factory=list)
    pace: float = 0.0


def value_at(point: dict[str, Any], epoch: int, epochs: int) -> float:
    """What a trial reports: better near x = 0.3, and rising at a pace that differs between points."""
    x = float(point["x"])
    other = sum(len(str(value)) % 3 for key, value in point.items() if key != "x")
    return 1.0 - (x - 0.3) ** 2 - 0.01 * other - 0.5 * math.exp(-epoch * (0.3 + x) * 4 / epochs)


def simulate(
    plan: StudyPlan, workers: int, seed: int, epochs: int = 6, spread: float = 0.5, deaths: float = 0.0, fails: int = 0
) -> Run:
    """Run a study to its end.

    Args:
        seed: Of what differs from run to run: paces and deaths.
        epochs: How many each trial has.
        spread: The standard deviation of the logarithm of a trial's time.
        deaths: The chance with which a worker dies after an epoch; another takes its place.
        fails: Every so many trials, one fails after its first epoch; 0 for none.
    """
    draw = random.Random(seed)
    crew = [_Worker(Claims(Study(plan))) for _ in range(workers)]
    queue = [(0.0, index) for index in range(workers)]
    now = spent = 0.0
    while queue:
        now, index = heapq.heappop(queue)
        worker = crew[index]
        if worker.claim is None:
            worker.claim = worker.claims.claim()
            if worker.claim is None:
                trials = worker.claims.study.trials()
                if not worker.claims.study.schedule.is_done(trials):
                    heapq.heappush(queue, (now + _PAUSE, index))
                continue
            known = len(worker.claims.study.trials()[worker.claim.number].intermediate_values)
            worker.epochs = list(range(known, epochs))
            pace = random.Random(f"{seed} {worker.claim.number}")
            worker.pace = pace.lognormvariate(-(spread**2) / 2, spread) / epochs
        elif _epoch_ends(worker, epochs, fails):
            worker.claim = None
        elif draw.random() < deaths:
            worker.claims.abandon(worker.claims.study.owner["token"], "killed")
            worker.claims, worker.claim = Claims(Study(plan)), None
        pause = worker.pace if worker.claim is not None else 0.0
        spent += pause
        heapq.heappush(queue, (now + pause, index))
    return Run(table(crew[0].claims.study), now, spent / (workers * now))


def table(study: Study) -> list[Row]:
    """What a study came to, without its times."""
    return [
        (trial.number, trial.state.name, trial.params, trial.intermediate_values, trial.values or [])
        for trial in study.trials()
        if trial.state is not TrialState.WAITING
    ]


def _epoch_ends(worker: _Worker, epochs: int, fails: int) -> bool:
    """Report an epoch; returns whether the trial has ended."""
    claims, claim = worker.claims, worker.claim
    assert claim is not None
    facts = claim.trial.user_attrs
    value = 0.0
    if worker.epochs:
        step = worker.epochs.pop(0) + 1
        value = value_at(claim.trial.params, step, epochs)
        if claims.report(claim, {step: value}):
            claims.finish(claim, Job(claim.number, claim.overrides, PRUNED, metrics={"m": value}))
            return True
        if fails and claim.number % fails == fails - 1 and "retry_of" not in facts:
            claims.finish(claim, Job(claim.number, claim.overrides, FAILED, reason="no"))
            return True
    if worker.epochs:
        return False
    value = value_at(claim.trial.params, epochs, epochs)
    claims.finish(claim, Job(claim.number, claim.overrides, COMPLETED, metrics={"m": value}, values=[value]))
    return True
