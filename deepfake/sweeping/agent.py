"""Claims a trial, runs it, tells the study; also the thread that says the trial is alive."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import FrameType, TracebackType
from typing import Any

from hydra.core.utils import JobReturn

from deepfake.compat import job_outcome, reported_values
from deepfake.errors import UserError, is_device_lost, nearest
from deepfake.sweeping.callbacks import COMPLETED, FAILED, Job
from deepfake.sweeping.jobs import JobRunner, describe, is_interruption, keep_traceback, timed, to_job
from deepfake.sweeping.outage import is_outage
from deepfake.sweeping.study import Claim, Study
from deepfake.sweeping.trial import Overdue, Pruned, Refused, Stopped, Taken, running

#: What may be kept of where a trial's run is.
IDENTITY = ("run_id", "run_dir", "name")
#: Seconds that a job waits for the word of a study which answered before.
_PATIENCE = 5.0
#: So many heartbeats it goes on without a word: after three, another machine may have taken it for dead.
_LEASE = 2


class RunningTrial:
    """The trial a job is, as it sees it; see :class:`deepfake.sweeping.trial.TrialHandle`.

    Made as soon as the trial is claimed.
    """

    def __init__(self, study: Study, claim: Claim) -> None:
        self._study = study
        self._claim = claim
        kept = claim.trial.user_attrs
        self._facts = {key: str(kept[key]) for key in IDENTITY if kept.get(key)}
        self._known = set(reported_values(claim.trial))
        self._farthest = int(kept.get("progress", 0))
        self._objectives = study.plan.objectives
        # What is to be told, how often something was, and up to where the study took it.
        self._turn = threading.Condition()
        self._steps: dict[int, float | None] = {}
        self._news: dict[str, str] = {}
        self._asked = self._taken = 0
        self._answered = time.monotonic()
        self._sending = self._to_prune = self._ending = False
        self._failure: BaseException | None = None

    @property
    def study(self) -> str:
        return self._study.plan.name

    @property
    def number(self) -> int:
        return self._claim.number

    @property
    def attempt(self) -> int:
        return self._claim.attempt

    @property
    def identity(self) -> dict[str, Any]:
        # What was not known at the beginning may be by the end.
        return {key: value for key, value in self._facts.items() if value}

    def identify(self, **facts: str) -> None:
        new = {key: value for key, value in facts.items() if self._facts.get(key) != value}
        self._facts.update(new)
        if new:
            self._tell({}, new)

    def agree(self, topic: str, fact: str) -> None:
        if not self._study.agree(self._claim, topic, fact):
            raise Refused(topic)

    def hold(self) -> None:
        self._tell({}, {})

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        value = metrics.get(self._objectives[0].metric)
        # Pruners count epochs done; a value seen in an earlier attempt was judged then.
        step = epoch + 1
        if len(self._objectives) > 1 or value is None or value != value:
            # There is nothing to judge, but the trial gets on.
            if step > self._farthest:
                self._farthest = step
                self._tell({step: None}, {})
            return
        if step in self._known:
            self.hold()
            return
        self._known.add(step)
        self._tell({step: float(value)}, {})
        if self._to_prune:
            raise Pruned(epoch, dict(metrics))

    def settle(self) -> None:
        """Wait until the study has taken all that was told.

        Raises:
            Taken: The trial is another process's by now.
            UserError: The study has not answered for too long.
        """
        with self._turn:
            self._turn.wait_for(lambda: self._failure or self._taken == self._asked)
            if self._failure is not None:
                raise self._failure

    def _tell(self, steps: Mapping[int, float | None], facts: Mapping[str, str]) -> None:
        """Tell the study and wait for its word: for moments; not at all while it is behind; and as long as it takes
        once it was silent for so long that the trial may be another's.
        """
        with self._heeding_the_end(), self._turn:
            behind = self._taken < self._asked
            self._steps.update(steps)
            self._news.update(facts)
            self._asked += 1
            mine = self._asked
            if not self._sending and self._failure is None:
                self._sending = True
                threading.Thread(target=self._send, name="reports", daemon=True).start()

            def heard() -> bool:
                return self._failure is not None or self._taken >= mine

            def held() -> bool:
                return time.monotonic() < self._answered + _LEASE * self._study.plan.heartbeat

            self._turn.wait_for(lambda: heard() or self._ending, 0.0 if behind else _PATIENCE)
            self._turn.wait_for(lambda: heard() or self._ending or held())
            if self._failure is not None:
                raise self._failure
            if self._ending and not heard() and not held():
                # Told to end, and the trial may be another's: nothing more is written in its name.
                raise KeyboardInterrupt("SIGTERM")

    @contextlib.contextmanager
    def _heeding_the_end(self) -> Iterator[None]:
        """While entered, SIGTERM ends the wait, whatever else it does: to the job it may be a wish alone."""
        former = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or not callable(former):
            yield
            return

        def end(number: int, frame: FrameType | None) -> None:
            with self._turn:
                self._ending = True
                self._turn.notify_all()
            former(number, frame)

        signal.signal(signal.SIGTERM, end)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)

    def _send(self) -> None:
        """Send until nothing is left."""
        while True:
            with self._turn:
                if self._taken == self._asked:
                    self._sending = False
                    return
                steps, facts, upto = self._steps, self._news, self._asked
                self._steps, self._news = {}, {}
            try:
                to_prune = self._study.report(self._claim, steps, facts)
            except BaseException as error:
                # It is the job's to hear, not this thread's.
                with self._turn:
                    self._failure, self._sending = error, False
                    self._turn.notify_all()
                return
            with self._turn:
                self._taken, self._answered = upto, time.monotonic()
                self._to_prune = self._to_prune or to_prune
                self._turn.notify_all()


log = logging.getLogger(__name__)

#: How a process ends whose job does not let itself be stopped.
OVERDUE_STATUS = 76
#: How long a job that is overdue may take to stop before its process is ended from inside.
_GRACE_SECONDS = 30.0
#: While the storage does not answer, signs of life are tried at least this often, so as not to be taken for dead.
_TRY_SECONDS = 5.0


class Heartbeat:
    """Beats while entered.

    Attributes:
        stopped: What the job was stopped by, if it was: libraries turn exceptions into errors of their own.
    """

    def __init__(self, study: Study, claim: Claim, end_process: Callable[[int], None] = os._exit) -> None:
        self._study, self._claim, self._end_process = study, claim, end_process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._signals = threading.current_thread() is threading.main_thread()
        self._former: object = None
        self.stopped: Stopped | None = None

    def __enter__(self) -> Heartbeat:
        if self._signals:
            # A handler of Python's own kind, for only those run in the main thread, and only there raise.
            self._former = signal.signal(signal.SIGINT, self._interrupt)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        # One that waits for a storage which does not answer is not waited for: it does nothing more.
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self._thread.join(_TRY_SECONDS)
        if self._signals:
            signal.signal(signal.SIGINT, self._former)  # type: ignore[arg-type]

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stopped is not None:
            if not self._over.is_set():
                raise self.stopped
        elif callable(self._former):
            self._former(number, frame)
        elif self._former is not signal.SIG_IGN:
            raise KeyboardInterrupt

    def _beat(self) -> None:
        plan = self._study.plan
        limit = None if plan.trial_timeout is None else time.monotonic() + plan.trial_timeout
        pause = plan.heartbeat
        while not self._over.wait(pause if limit is None else max(0.0, min(pause, limit - time.monotonic()))):
            if limit is not None and time.monotonic() >= limit:
                self._end_overdue()
                return
            try:
                held = self._study.beat(self._claim)
            except Exception as error:
                if not is_outage(error):
                    log.exception("trial %s gives no more signs of life", self._claim.number)
                    return
                self._study.notice_outage()
                pause = min(plan.heartbeat, _TRY_SECONDS)
                continue
            pause = plan.heartbeat
            if not held:
                self._stop(Taken())
                return

    def _end_overdue(self) -> None:
        claim, plan = self._claim, self._study.plan
        stop = Overdue(f"sweep.trial_timeout: it ran for more than {plan.trial_timeout:g} s")
        # Told first: whether the job can be stopped is not known yet.
        self._study.finish(claim, Job(claim.number, claim.overrides, FAILED, reason=str(stop)))
        self._stop(stop)
        if not self._over.wait(_GRACE_SECONDS):
            print(f"trial {claim.number}: {stop}, and does not let itself be stopped", file=sys.stderr, flush=True)
            self._end_process(OVERDUE_STATUS)

    def _stop(self, stop: Stopped) -> None:
        # An exception in the midst of writing would leave it half done.
        with self._study.between_writes():
            self.stopped = stop
            if self._signals and not self._over.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


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
            error = job_outcome(result)
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
