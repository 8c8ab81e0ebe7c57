"""What a point comes to that is run over several seeds: its runs are made one after another under one claim.

Each run is recorded with the trial as it completes, so that whoever takes the trial up goes on with the next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optuna.trial import TrialState

from deepfake.sweeping.callbacks import COMPLETED, PRUNED, Job, SeedRun
from deepfake.sweeping.claims import Claim, Claims
from deepfake.sweeping.repeats import RUNS, clearly_worse, from_record, mean_metrics, to_record
from deepfake.sweeping.stopping import is_feasible


def end_run(claims: Claims, claim: Claim, job: Job, epochs: int) -> Claim:
    """Record one of a point's runs that has completed.

    Args:
        job: What it came to.
        epochs: How many it had.

    Returns:
        The claim for what is to come.

    Raises:
        Taken: The trial is another process's by now.
    """
    seeds = claims.plan.repeats
    assert seeds is not None
    run = SeedRun(seeds.first + claim.repeat, job.metrics, job.run_id, job.run_dir, job.name, job.seconds, epochs)
    following = replace(claim, runs=(*claim.runs, run))
    facts: dict[str, Any] = {RUNS: [to_record(one) for one in following.runs], "progress": following.epochs}
    # The next run is another one, and this one is progress, whether or not it had epochs.
    facts |= {"run_id": None, "run_dir": None, "name": None, "deaths": 0, "lost": 0}
    claims.note(claim, facts)
    return following


def outcome(claims: Claims, claim: Claim) -> Job | None:
    """What a point has come to by its finished runs; None where another is to be run."""
    seeds = claims.plan.repeats
    if seeds is None or not claim.runs:
        return None
    done = len(claim.runs) == seeds.count
    if not done and not _is_clearly_worse(claims, claim):
        return None
    wanted = [item.metric for item in claims.plan.objectives] + [one.metric for one in claims.plan.constraints]
    metrics, first = mean_metrics(claim.runs, wanted), claim.runs[0]
    return Job(
        claim.number,
        claim.overrides,
        COMPLETED if done else PRUNED,
        metrics=metrics,
        run_id=first.run_id,
        run_dir=first.run_dir,
        name=first.name,
        values=[metrics[item.metric] for item in claims.plan.objectives] if done else [],
        seconds=sum(run.seconds or 0.0 for run in claim.runs),
        reason=None if done else f"clearly worse than the best by {len(claim.runs)} of {seeds.count} seeds",
        runs=list(claim.runs),
    )


def _is_clearly_worse(claims: Claims, claim: Claim) -> bool:
    first, seeds = claims.plan.objectives[0], claims.plan.repeats
    if len(claims.plan.objectives) > 1 or seeds is None:
        return False
    others = []
    # Those that the trial may know.
    for trial in claim.trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        runs = [from_record(one) for one in trial.user_attrs.get(RUNS, ())]
        if len(runs) == seeds.count and is_feasible(trial):
            others.append([run.metrics[first.metric] for run in runs])
    return clearly_worse([run.metrics[first.metric] for run in claim.runs], others, first.maximize)
