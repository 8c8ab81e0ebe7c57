"""The loop that claims trials, runs them and reports to the study, and the trial as its job sees it."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn

from deepfake.compat import job_outcome, reported_values
from deepfake.errors import UserError, is_device_lost, nearest
from deepfake.sweeping import background, seed_runs
from deepfake.sweeping.callbacks import COMPLETED, FAILED, PAUSED, Job
from deepfake.sweeping.claims import Claim, Claims
from deepfake.sweeping.constraints import are_kept, nobody_logs
from deepfake.sweeping.facts import SPENT, UNTIL
from deepfake.sweeping.jobs import JobRunner, describe, is_interruption, keep_traceback, timed, to_job
from deepfake.sweeping.judging import reports_of
from deepfake.sweeping.keeping_alive import OVERDUE_STATUS, Heartbeat, Turn
from deepfake.sweeping.trial import LetGo, Overdue, Paused, Pruned, Refused, Stopped, running

log = logging.getLogger(__name__)

#: What may be recorded of where a trial's run is.
_IDENTITY = ("run_id", "run_dir", "name")
#: How often it is looked whether trials of other processes have become free.
_IDLE_SECONDS = 0.5
#: Seconds that a job waits for the answer of a study which answered before.
_ANSWER_SECONDS = 5.0
#: The longest step of such a wait.
_STEP_SECONDS = 1.0
#: So many heartbeats it goes on without an answer: after three, another machine may have taken it for dead.
_UNANSWERED = 2


class DeviceLost(UserError):  # noqa: N818 - what happened
    """Nothing more can run in this process; the trial is let go of, or has failed."""


def work(
    claims: Claims,
    runner: JobRunner,
    finished: Callable[[Job], None] = lambda job: None,
    waiting: Callable[[], None] = lambda: None,
    replaceable: bool = False,
) -> None:
    """Run trials until none is left.

    Args:
        finished: Called after each trial of this process that ended here, or was paused.
        waiting: Called once when only trials of other living processes are left; they may yet die.
        replaceable: End the process after a trial that ran too long: what hung may hang about.

    Raises:
        DeviceLost: A trial lost the device that it ran on.
    """
    waits = False
    while not claims.leaving.is_set():
        claim = claims.claim()
        if claim is not None:
            first = Member(claims, runner, claim, finished, replaceable)
            if claims.plan.fuse > 1 and runner.together is not None and not claim.endangers:
                runner.together(_following(first), claims.plan.fuse)
            else:
                first.run()
            continue
        trials = claims.study.trials()
        study = claims.study
        if study.schedule.is_done(trials) or study.stop_reason(trials) or study.left_to_people(trials):
            return
        if not waits:
            waiting()
            waits = True
        time.sleep(_IDLE_SECONDS)


@dataclass
class Member:
    """A claimed trial as a job of this process, perhaps one of several that it runs at the same time.

    Attributes:
        claims: Where it was claimed.
        runner: Runs it.
        claim: The trial.
        finished: See :func:`work`.
        replaceable: Likewise.
        among: Whether others run at the same time.
    """

    claims: Claims
    runner: JobRunner
    claim: Claim
    finished: Callable[[Job], None]
    replaceable: bool
    among: bool = False

    def __post_init__(self) -> None:
        self._heartbeat: Heartbeat | None = None
        self._turn = Turn() if self.among and not self.alone else None

    @property
    def alone(self) -> bool:
        """Whether it is to share nothing with those others."""
        return self.claim.endangers

    def run(self) -> None:
        """Run it, and report to the study how it ended."""
        # One that is stopped in its turn leaves nothing that hangs about, and others go on in its process.
        replaceable = self.replaceable and self._turn is None
        job = run_trial(self.claims, self.runner, self.claim, replaceable, self._create_heartbeat)
        if job is not None:
            self.finished(job)

    def stopped(self) -> BaseException | None:
        """What it is to be stopped by, if it is."""
        return None if self._heartbeat is None else self._heartbeat.stopped

    def begin_turn(self, among: int = 1) -> None:
        """From now on it runs, or is trained with others."""
        if self._turn is not None:
            self._turn.begin(among)

    def end_turn(self) -> None:
        """It waits for others."""
        if self._turn is not None:
            self._turn.end()

    def _create_heartbeat(self, claims: Claims, claim: Claim) -> Heartbeat:
        self._heartbeat = Heartbeat(claims, claim, turn=self._turn)
        return self._heartbeat


def _following(first: Member) -> Callable[[], Member | None]:
    """Gives a member and then, as often as it is asked, another trial of the same study while there are any."""
    waiting = [replace(first, among=True)]
    in_vain = -math.inf

    def following() -> Member | None:
        nonlocal in_vain
        if waiting:
            return waiting.pop()
        if time.monotonic() < in_vain + _IDLE_SECONDS:
            return None
        claim = first.claims.claim()
        if claim is None:
            in_vain = time.monotonic()
            return None
        return replace(first, claim=claim, among=True)

    return following


def run_trial(
    claims: Claims,
    runner: JobRunner,
    claim: Claim,
    replaceable: bool = False,
    create_heartbeat: Callable[[Claims, Claim], Heartbeat] = Heartbeat,
) -> Job | None:
    """Run one claimed trial and report to the study how it ended.

    An interruption lets go of the trial, so that the next start takes it up again, and passes.

    Args:
        claims: Where it was claimed.
        runner: Runs it.
        claim: The trial.
        replaceable: See :func:`work`.
        create_heartbeat: Makes that of each run of its point.

    Returns:
        None where another process has taken the trial up.

    Raises:
        DeviceLost: See :func:`work`.
    """
    following: Claim | None = claim
    job: Job | None = None
    while following is not None:
        claim = following
        job = seed_runs.outcome(claims, claim)
        if job is not None:
            claims.finish(claim, job)
            break
        job, following = _run_once(claims, runner, claim, replaceable, create_heartbeat(claims, claim))
    return job


def _run_once(
    claims: Claims, runner: JobRunner, claim: Claim, replaceable: bool, heartbeat: Heartbeat
) -> tuple[Job | None, Claim | None]:
    """One run of a point.

    Returns:
        How the trial ended, and None; or, where another run of its point may follow, what this one came to and the
        claim for that.
    """
    objectives, seeds = claims.plan.objectives, claims.plan.repeats
    handle = RunningTrial(claims, claim, heartbeat.turn)
    result: JobReturn | None = None
    error: object = None
    seconds = None
    try:
        with heartbeat, running(handle):
            chosen = [*claims.plan.fixed, *claim.overrides]
            if seeds is None:
                start = partial(runner.run, chosen, claim.number)
            else:
                seed = seeds.override(claim.repeat)
                start = partial(runner.run, [*chosen, seed], claim.number, seed.replace("=", "-"))
            result, seconds = timed(start)
            error = job_outcome(result)
    except SystemExit as ended:
        claims.lose(claim, _why(ended))
        raise
    except (Exception, KeyboardInterrupt, Stopped) as caught:
        error = caught
    # One of several jobs hears of it by what it writes, which says less of why.
    stopped = heartbeat.stopped or (error if isinstance(error, Stopped) else None)
    if stopped is not None:
        return _stopped(claims, claim, stopped, handle, replaceable), None
    if is_interruption(error):
        # Libraries turn an interruption into errors of their own; it is one all the same.
        claims.release(claim)
        raise KeyboardInterrupt from error if isinstance(error, BaseException) else None
    if isinstance(error, BaseException) and is_device_lost(error):
        reason = describe(error)
        claims.lose(claim, reason)
        raise DeviceLost(f"the device was lost in mid-run: {reason}", "once it is back, the same command goes on")
    if result is None:
        # Composing the job failed: the mistake is in this point, so the study goes on.
        reason, file = describe(error), keep_traceback(error, claims.plan.folder / str(claim.number))
        job = Job(claim.number, claim.overrides, FAILED, reason=reason, traceback=str(file) if file else None)
        claims.finish(claim, job)
        return job, None
    try:
        handle.settle()
    except Stopped as late:
        return _stopped(claims, claim, late, handle, replaceable), None
    job = replace(to_job(result, claim.number, claim.overrides, objectives, seconds), **handle.identity)
    if handle.counts_time and seeds is None:
        job = replace(job, seconds=handle.seconds)
    if isinstance(error, LetGo):
        claims.let_go(claim)
        return None, None
    if job.status == PAUSED:
        claims.pause(claim, job)
        return job, None
    job, mistake = _judge(claims, job)
    if seeds is not None and job.status == COMPLETED:
        try:
            return job, seed_runs.end_run(claims, claim, job, handle.epochs)
        except Stopped as late:
            return _stopped(claims, claim, late, handle, replaceable), None
    if seeds is not None and job.status == FAILED:
        job = replace(job, reason=f"{seeds.override(claim.repeat)}: {job.reason}")
    claims.finish(claim, job, handle.mistake or mistake)
    if job.status == FAILED:
        # The exception's frames hold what it was working on, perhaps a whole model on the GPU.
        del result, error
        gc.collect()
    return job, None


def _why(ended: SystemExit) -> str:
    if ended.__cause__ is not None:
        return describe(ended.__cause__)
    how = " with status" if isinstance(ended.code, int) else ":"
    return f"it ended its process{how} {str(ended.code).strip()}"


def _stopped(claims: Claims, claim: Claim, stop: Stopped, handle: RunningTrial, replaceable: bool) -> Job | None:
    if isinstance(stop, Refused):
        claims.release(claim)
        raise UserError(
            f"{stop}: the points of one study are compared on one set of data",
            "bring the same data here, or give sweep.name=<new name> for a study of its own",
        )
    if not isinstance(stop, Overdue):
        log.warning("trial %s: %s; its work here is dropped", claim.number, stop)
        return None
    job = Job(claim.number, claim.overrides, FAILED, reason=str(stop), **handle.identity)
    claims.finish(claim, job)
    if replaceable:
        raise SystemExit(OVERDUE_STATUS)
    return job


def _judge(claims: Claims, job: Job) -> tuple[Job, UserError | None]:
    """Hold a completed job to its objectives, and to what its constraints bound."""
    if job.status != COMPLETED:
        return job, None
    for item in claims.plan.objectives:
        value = job.metrics.get(item.metric)
        if value is None:
            reason = f"it logged no {item.metric!r}"
            first = not any(trial.state.name == "COMPLETE" for trial in claims.study.trials())
            mistake = UserError(f"sweep.objective={item.metric}: no run logs it", nearest(item.metric, job.metrics))
            return replace(job, status=FAILED, values=[], reason=reason), mistake if first else None
        if not math.isfinite(value):
            return replace(job, status=FAILED, values=[], reason=f"{item.metric} is {value}"), None
    for constraint in claims.plan.constraints:
        value = job.metrics.get(constraint.metric)
        if value is None:
            reason = f"it logged no {constraint.metric!r}, which sweep.constraints bounds"
            first = not any(trial.state.name == "COMPLETE" for trial in claims.study.trials())
            failed = replace(job, status=FAILED, values=[], reason=reason)
            return failed, nobody_logs(constraint, job.metrics) if first else None
        if not math.isfinite(value):
            return replace(job, status=FAILED, values=[], reason=f"{constraint.metric} is {value}"), None
    return replace(job, feasible=are_kept(claims.plan.constraints, job.metrics)), None


class RunningTrial:
    """The trial a job is, as the job sees it; see :class:`deepfake.sweeping.trial.TrialHandle`.

    A thread sends the reports, so that the job goes on for a while where the storage does not answer.

    Args:
        claim: Just claimed.
        turn: Of one of several jobs of this process; None where it has it to itself.
    """

    def __init__(self, claims: Claims, claim: Claim, turn: Turn | None = None) -> None:
        self._claims = claims
        self._claim = claim
        facts = claim.trial.user_attrs
        self._facts = {key: str(facts[key]) for key in _IDENTITY if facts.get(key)}
        self._known_steps = set(reports_of(facts, claim.repeat) if claim.repeat else reported_values(claim.trial))
        # Where an earlier attempt was to end, and did not come to it.
        self._pruned_after: int | None = facts.get("pruned_after")
        self._last_step = max(0, int(facts.get("progress", 0)) - claim.epochs)
        self._objectives = claims.plan.objectives
        self._turn = turn
        self._began, self._seconds_before = time.monotonic(), float(facts.get(SPENT) or 0.0)
        self.mistake: UserError | None = None
        # What is to be sent, how many reports there were, and how many of them the study has answered.
        self._changed = threading.Condition()
        self._new_steps: dict[int, float | None] = {}
        self._new_facts: dict[str, Any] = {}
        self._reported = self._answered_up_to = 0
        self._last_answer = time.monotonic()
        self._sending = self._ending = False
        self._outcome: type[Pruned | Paused] | None = None if self._pruned_after is None else Pruned
        self._failure: BaseException | None = None

    @property
    def study(self) -> str:
        return self._claims.plan.name

    @property
    def number(self) -> int:
        return self._claim.number

    @property
    def attempt(self) -> int:
        return self._claim.run_attempt

    @property
    def repeat(self) -> int | None:
        return None if self._claims.plan.repeats is None else self._claim.repeat

    @property
    def epochs(self) -> int:
        """How many epochs this run has reported."""
        return max(self._last_step, *self._known_steps, 0)

    @property
    def threads(self) -> int | None:
        order = self._claims.study.order
        return None if order is None else order.threads

    @property
    def identity(self) -> dict[str, Any]:
        # What was not known at the beginning may be by the end.
        return {key: value for key, value in self._facts.items() if value}

    @property
    def counts_time(self) -> bool:
        """Whether the study needs to know how long its trials run for, whoever runs them."""
        plan = self._claims.plan
        return plan.promotion is not None or plan.budget is not None or plan.fuse > 1

    @property
    def seconds(self) -> float:
        """How long the trial has run for, by all that worked on it one after another, as far as they said; of what
        trials had together its share."""
        here = time.monotonic() - self._began if self._turn is None else self._turn.spent
        return self._seconds_before + here

    def identify(self, **facts: str) -> None:
        new = {key: value for key, value in facts.items() if self._facts.get(key) != value}
        self._facts.update(new)
        if new:
            self._submit({}, new)

    def agree(self, topic: str, fact: str) -> None:
        if not self._claims.agree(self._claim, topic, fact):
            raise Refused(topic)

    def hold(self) -> None:
        self._submit({}, {})

    def report(self, epoch: int, metrics: Mapping[str, float], more: bool | None = None) -> None:
        promoting = self._claims.plan.promotion is not None
        if promoting and more is None:
            self.mistake = UserError(
                "pruner=promote pauses trials and goes on with them later, and this job would begin with its first "
                "epoch again",
                "take pruner=asha, or save a state and say so: report(epoch, metrics, more=epoch + 1 < epochs)",
            )
            raise self.mistake
        value = metrics.get(self._objectives[0].metric) if self._claims.reads_reports else None
        facts: dict[str, Any] = {SPENT: self.seconds} if self.counts_time else {}
        # After its last epoch there is nothing left to pause.
        facts |= {UNTIL: None} if promoting and not more else {}
        # Pruners count epochs done; a value seen in an earlier attempt was judged then.
        step = epoch + 1
        if value is None or value != value:
            # There is nothing to judge, but the trial progresses.
            if step > self._last_step:
                self._last_step = step
                self._submit({step: value}, facts)
            self._stop_here(epoch, metrics, more)
            return
        if step in self._known_steps:
            self.hold()
            if self._pruned_after is None or step >= self._pruned_after:
                self._stop_here(epoch, metrics, more)
            return
        self._known_steps.add(step)
        self._submit({step: float(value)}, facts)
        self._stop_here(epoch, metrics, more)

    def settle(self) -> None:
        """Wait until the study has answered every report.

        Raises:
            Taken: The trial is another process's by now.
            UserError: The study has not answered for too long.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._answered_up_to == self._reported)
            if self._failure is not None:
                raise self._failure

    def _stop_here(self, epoch: int, metrics: Mapping[str, float], more: bool | None) -> None:
        # After its last epoch there is nothing left to pause; a job that does not say is begun anew when it is resumed.
        if self._outcome is Pruned or (self._outcome is not None and more is not False):
            raise self._outcome(epoch, dict(metrics))

    def _submit(self, steps: Mapping[int, float | None], facts: Mapping[str, Any]) -> None:
        """Report to the study and wait for its answer: for seconds; not at all while earlier reports wait; and without
        limit once it was silent for so long that the trial may be another process's, or where the answer decides.
        """
        with self._noticing_sigterm(), self._changed:
            behind = self._answered_up_to < self._reported
            self._new_steps.update(steps)
            self._new_facts.update(facts)
            self._reported += 1
            number = self._reported
            if not self._sending and self._failure is None:
                self._sending = True
                background.run(self._send)

            def answered() -> bool:
                return self._failure is not None or self._answered_up_to >= number

            def leased() -> bool:
                return time.monotonic() < self._last_answer + _UNANSWERED * self._claims.plan.heartbeat

            awaited = bool(steps) and self._claims.waits_for_verdicts
            self._wait_for(lambda: answered() or self._ending, 0.0 if behind else _ANSWER_SECONDS)
            self._wait_for(lambda: answered() or self._ending or (leased() and not awaited), math.inf)
            if self._failure is not None:
                raise self._failure
            if self._ending and not answered() and (awaited or not leased()):
                # The process is told to end, and the trial may be another's: nothing more is written in its name. Nor
                # does it go on unjudged.
                raise KeyboardInterrupt("SIGTERM")

    def _wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait in short steps: a signal that comes as a step begins is handled only when the step is over."""
        deadline = time.monotonic() + seconds
        while not condition() and (left := deadline - time.monotonic()) > 0:
            self._changed.wait(min(left, _STEP_SECONDS))

    @contextlib.contextmanager
    def _noticing_sigterm(self) -> Iterator[None]:
        """While entered, SIGTERM also ends the wait: the job's handler may do no more than ask it to end later."""
        former = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or not callable(former):
            yield
            return

        def end(number: int, frame: FrameType | None) -> None:
            with self._changed:
                self._ending = True
                self._changed.notify_all()
            former(number, frame)

        signal.signal(signal.SIGTERM, end)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)

    def _send(self) -> None:
        """Send until nothing is left."""
        while True:
            with self._changed:
                if self._answered_up_to == self._reported:
                    self._sending = False
                    return
                steps, facts, number = self._new_steps, self._new_facts, self._reported
                self._new_steps, self._new_facts = {}, {}
            try:
                outcome = self._claims.report(self._claim, steps, facts)
            except BaseException as error:
                # For the job's thread to raise, not this one's.
                with self._changed:
                    self._failure, self._sending = error, False
                    self._changed.notify_all()
                return
            with self._changed:
                self._answered_up_to, self._last_answer = number, time.monotonic()
                self._outcome = outcome if outcome is Pruned else self._outcome or outcome
                self._changed.notify_all()
