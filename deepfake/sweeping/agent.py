"""Claims trials and runs them in this process, one after another, until the study has no more for it.

The same loop serves the terminal itself, a worker of the pool and a job of a cluster.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hydra.core.utils import JobReturn

from deepfake.errors import UserError, is_device_lost, nearest
from deepfake.sweeping.heartbeat import OVERDUE_STATUS, Heartbeat
from deepfake.sweeping.jobs import JobRunner, describe, is_interruption, keep_traceback, timed, to_job
from deepfake.sweeping.observer import COMPLETED, FAILED, Job
from deepfake.sweeping.running import RunningTrial
from deepfake.sweeping.study import Claim, Study
from deepfake.sweeping.trial import Overdue, Refused, Stopped, running

log = logging.getLogger(__name__)

_IDLE_SECONDS = 0.5


class DeviceLost(UserError):  # noqa: N818 - what happened
    """Nothing more can run in this process; the trial is let go of, or has failed."""


def work(
    study: Study,
    runner: JobRunner,
    finished: Callable[[Job], None] = lambda job: None,
    waiting: Callable[[], None] = lambda: None,
    replaceable: bool = False,
) -> None:
    """Run trials until none is left.

    Args:
        finished: Called after each trial of this process that ended here.
        waiting: Called once when only trials of other living processes are left; they may yet die.
        replaceable: End the process after a trial that ran too long: what hung may hang about.

    Raises:
        DeviceLost: A trial lost the device that it ran on.
    """
    told = False
    while True:
        claim = study.claim()
        if claim is not None:
            job = run_trial(study, runner, claim, replaceable)
            if job is not None:
                finished(job)
            continue
        trials = study.trials()
        if study.is_done(trials) or study.stop_reason(trials):
            return
        if not told:
            waiting()
            told = True
        time.sleep(_IDLE_SECONDS)


def run_trial(study: Study, runner: JobRunner, claim: Claim, replaceable: bool = False) -> Job | None:
    """Run one claimed trial and tell the study how it ended.

    An interruption lets go of the trial, so that the next start takes it up again, and passes.

    Returns:
        None where another process has taken the trial up.

    Raises:
        DeviceLost: See :func:`work`.
    """
    objectives = study.plan.objectives
    handle = RunningTrial(study, claim)
    heart = Heartbeat(study, claim)
    result: JobReturn | None = None
    error: object = None
    seconds = None
    try:
        with heart, running(handle):
            start = partial(runner.run, [*study.plan.fixed, *claim.overrides], claim.number)
            result, seconds = timed(start)
            error = result._return_value
    except SystemExit as ended:
        study.lose(claim, _why(ended))
        raise
    except (Exception, KeyboardInterrupt, Stopped) as caught:
        error = caught
    stopped = error if isinstance(error, Stopped) else heart.stopped
    if stopped is not None:
        return _stopped(study, claim, stopped, handle, replaceable)
    if is_interruption(error):
        # Libraries turn an interruption into errors of their own; it is one all the same.
        study.release(claim)
        raise KeyboardInterrupt from error if isinstance(error, BaseException) else None
    if isinstance(error, BaseException) and is_device_lost(error):
        reason = describe(error)
        study.lose(claim, reason)
        raise DeviceLost(f"the device was lost in mid-run: {reason}", "once it is back, the same command goes on")
    if result is None:
        # Composing the job failed: the mistake is in this point, so the study goes on.
        reason, file = describe(error), keep_traceback(error, study.plan.folder / str(claim.number))
        job = Job(claim.number, claim.overrides, FAILED, reason=reason, traceback=str(file) if file else None)
        study.finish(claim, job)
        return job
    try:
        handle.settle()
    except Stopped as late:
        return _stopped(study, claim, late, handle, replaceable)
    job = replace(to_job(result, claim.number, claim.overrides, objectives, seconds), **handle.identity)
    job, mistake = _judge(study, job)
    study.finish(claim, job, mistake)
    if job.status == FAILED:
        # The exception's frames hold what it was working on, perhaps a whole model on the GPU.
        del result, error
        gc.collect()
    return job


def _why(ended: SystemExit) -> str:
    if ended.__cause__ is not None:
        return describe(ended.__cause__)
    said = str(ended.code).strip()
    return (
        f"it ended its process with status {said}" if isinstance(ended.code, int) else f"it ended its process: {said}"
    )


def _stopped(study: Study, claim: Claim, stop: Stopped, handle: RunningTrial, replaceable: bool) -> Job | None:
    if isinstance(stop, Refused):
        study.release(claim)
        raise UserError(
            f"{stop}: the points of one study are compared on one set of data",
            "bring the same data here, or give sweep.name=<new name> for a study of its own",
        )
    if not isinstance(stop, Overdue):
        log.warning("trial %s: %s; its work here is dropped", claim.number, stop)
        return None
    job = Job(claim.number, claim.overrides, FAILED, reason=str(stop), **handle.identity)
    study.finish(claim, job)
    if replaceable:
        raise SystemExit(OVERDUE_STATUS)
    return job


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
