"""Claims trials and runs them in this process, one after another, until the study has no more for it.

The same loop serves the terminal itself, a worker of the pool and a job of a cluster.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from deepfake.errors import UserError, nearest
from deepfake.sweeping.jobs import JobRunner, describe, is_interruption, keep_traceback, timed, to_job
from deepfake.sweeping.observer import COMPLETED, FAILED, Job
from deepfake.sweeping.running import RunningTrial
from deepfake.sweeping.study import Claim, Study
from deepfake.sweeping.trial import running

_IDLE_SECONDS = 0.5


def work(
    study: Study,
    runner: JobRunner,
    finished: Callable[[Job], None] = lambda job: None,
    waiting: Callable[[], None] = lambda: None,
) -> None:
    """Run trials until none is left.

    Args:
        finished: Called after each trial of this process.
        waiting: Called once when only trials of other living processes are left; they may yet die.
    """
    told = False
    while True:
        claim = study.claim()
        if claim is not None:
            finished(run_trial(study, runner, claim))
            continue
        trials = study.trials()
        if study.is_done(trials) or study.stop_reason(trials):
            return
        if not told:
            waiting()
            told = True
        time.sleep(_IDLE_SECONDS)


def run_trial(study: Study, runner: JobRunner, claim: Claim) -> Job:
    """Run one claimed trial and tell the study how it ended.

    An interruption lets go of the trial, so that the next start takes it up again, and passes.
    """
    objectives = study.plan.objectives
    handle = RunningTrial(study, claim)
    try:
        with study.beating(claim), running(handle):
            start = partial(runner.run, [*study.plan.fixed, *claim.overrides], claim.number)
            result, seconds = timed(start)
    except (KeyboardInterrupt, SystemExit):
        study.release(claim)
        raise
    except Exception as error:
        _pass_interruption(study, claim, error)
        # Composing the job failed: the mistake is in this point, so the study goes on.
        reason, file = describe(error), keep_traceback(error, study.plan.folder / str(claim.number))
        job = Job(claim.number, claim.overrides, FAILED, reason=reason, traceback=str(file) if file else None)
        study.finish(claim, job)
        return job
    _pass_interruption(study, claim, result._return_value)
    job = replace(to_job(result, claim.number, claim.overrides, objectives, seconds), **handle.identity)
    job, mistake = _judge(study, job)
    study.finish(claim, job, mistake)
    if job.status == FAILED:
        # The exception's frames hold what it was working on, perhaps a whole model on the GPU.
        del result
        gc.collect()
    return job


def _pass_interruption(study: Study, claim: Claim, error: object) -> None:
    """Libraries turn an interruption into errors of their own; it is one all the same."""
    if is_interruption(error):
        study.release(claim)
        raise KeyboardInterrupt from error if isinstance(error, BaseException) else None


def _judge(study: Study, job: Job) -> tuple[Job, UserError | None]:
    """Hold a completed job to its objectives."""
    if job.status != COMPLETED:
        return job, None
    for item in study.plan.objectives:
        value = job.metrics.get(item.metric)
        if value is None:
            reason = f"it logged no {item.metric!r}"
            first = not any(trial.state.name == "COMPLETE" for trial in study.trials())
            mistake = UserError(f"sweep.objective={item.metric}: no run logs it", nearest(item.metric, job.metrics))
            return replace(job, status=FAILED, values=[], reason=reason), mistake if first else None
        if not math.isfinite(value):
            return replace(job, status=FAILED, values=[], reason=f"{item.metric} is {value}"), None
    return job, None
