"""Which process runs which trial: its owner claims it, reports on it and ends it; none is lost, none runs twice.

Every trial that runs is signed by its owner. A trial whose owner died with nobody to answer for it is taken up
again by whoever comes next, under the same number, unless it died too often without a step in between; and an owner
that was taken for dead writes nothing more. Heartbeats say that an owner is alive. Knows nothing of what a trial does.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from deepfake.compat import queued_values, trial_id
from deepfake.errors import UserError
from deepfake.sweeping.callbacks import COMPLETED, FAILED, PRUNED, Job, SeedRun
from deepfake.sweeping.commands import COMMANDS, DONE, STOP, UNDERSTANDS
from deepfake.sweeping.facts import (
    BRACKET,
    COMMAND,
    LEAVE,
    PAUSED,
    PAUSED_AT,
    SPENT,
    UNTIL,
    WITHDRAWN,
    hold_facts,
    is_held,
    is_paused,
    steps_of,
    stop_text,
)
from deepfake.sweeping.judging import record, should_prune
from deepfake.sweeping.repeats import RUNS, deviation, from_record
from deepfake.sweeping.samplers import Tried, create_pruner, create_sampler, identity_of, is_pruning, sees_results
from deepfake.sweeping.search_space import Value, choose, to_overrides
from deepfake.sweeping.stopping import DEVIATION, SEEDS
from deepfake.sweeping.study import Study
from deepfake.sweeping.trial import LetGo, Paused, Pruned, Taken
from deepfake.sweeping.views import Shown, View, as_failed, as_pruned

log = logging.getLogger(__name__)

#: How often a trial may make its process useless and is still tried again.
_LOSSES = 1
#: Before the name of what all trials of a study are to have alike, among the facts recorded with each.
_SAME = "same: "
_STATES = {COMPLETED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}


@dataclass(frozen=True)
class Claim:
    """A trial this process is to run.

    Attributes:
        overrides: What was chosen for it.
        attempt: How often it was begun before.
        runs: Of a point that is run over several seeds, the runs that are done; the next seed's is to come.
        taken_up: How many were done when this process took it up.
    """

    trial: optuna.Trial
    overrides: list[str]
    attempt: int
    runs: tuple[SeedRun, ...] = ()
    taken_up: int = 0

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def endangers(self) -> bool:
        """Whether it may be what ended its process, or made it useless: others are not to be in it then."""
        facts = self.trial.user_attrs
        return int(facts.get("deaths", 0)) > 1 or int(facts.get("lost", 0)) > 0

    @property
    def repeat(self) -> int:
        """Which of its runs is to come, from 0."""
        return len(self.runs)

    @property
    def run_attempt(self) -> int:
        """How often that run may have been begun before."""
        return self.attempt if self.repeat == self.taken_up else 0

    @property
    def epochs(self) -> int:
        """How many epochs its finished runs had."""
        return sum(run.epochs for run in self.runs)


class Claims:
    """What one process claims of a study.

    Args:
        study: As this process opened it.
        leaving: Set once this process is to work on nothing more: it lets go of its trial after the epoch.
    """

    def __init__(self, study: Study, leaving: threading.Event | None = None) -> None:
        self.study = study
        self.plan = study.plan
        # The points of ended trials by number, as the sampler compares them.
        self._tried: Tried = {}
        # The trials that ended before the first that has not, as samplers and pruners know them.
        self._ended: list[FrozenTrial] = []
        self._half_claimed = False
        # The numbers of the trials that were claimed and not let go of.
        self._held: set[int] = set()
        # What :meth:`agree` has found to be the same, by topic.
        self._agreed: dict[str, str] = {}
        self._prunes = is_pruning(study.plan.pruner)
        self.leaving = leaving or threading.Event()

    @property
    def reads_reports(self) -> bool:
        """Whether reported values are recorded; of several objectives only where trials are judged by the first."""
        return self._prunes or self.plan.promotion is not None or len(self.plan.objectives) == 1

    def claim(self) -> Claim | None:
        """The next trial for this process, or None: nothing is left, or what is left is with living owners.

        One whose point was completed by a trial that it may know is told that trial's values, and never run.
        """
        if self.leaving.is_set():
            return None
        while True:
            if self.study.schedule.stopping.is_slow:
                # Beforehand, so that nobody waits for it while the study is locked.
                self.study.schedule.count(self.study.trials())
            claim = self.study.ride_out(self._claim)
            known = None if claim is None else self._known(claim)
            if claim is None or known is None:
                return claim
            self.finish(claim, known)

    def report(
        self, claim: Claim, steps: Mapping[int, float | None], facts: Mapping[str, Any] | None = None
    ) -> type[Pruned | Paused] | None:
        """Record the objective's value at steps, the trial's progress alone where that is none, and facts.

        Args:
            steps: A step's value is None where there is nothing to judge, NaN where it is worse than any other.

        Returns:
            What is to become of the trial; None where it goes on.

        Raises:
            Taken: The trial is another process's by now.
        """

        def write() -> type[Pruned | Paused] | None:
            with self.study.writing():
                trial = self._recorded(claim)
                if trial is None:
                    raise Taken
                self.study.set_facts(trial_id(claim.trial), facts or {})
                values = {step: value for step, value in steps.items() if value is not None and not math.isnan(value)}
                # What the trial's own values do not tell of its progress.
                if reached := steps.keys() if claim.repeat else steps.keys() - values.keys():
                    self.study.set_facts(trial_id(claim.trial), {"progress": claim.epochs + max(reached)})
                for step, value in values.items():
                    record(claim.trial, step, value, claim.repeat)
                # Within, for some pruners write down what they judged by.
                if values and self._prunes and should_prune(claim.trial, claim.repeat):
                    # A process that dies before it ends the trial leaves the verdict to the one that goes on with it.
                    self.study.set_facts(trial_id(claim.trial), {"pruned_after": max(values)})
                    return Pruned
                if (asked := self._asked(trial)) is not None:
                    return asked
                return Paused if self.plan.promotion and steps and not self._goes_on(claim, steps) else None

        return self.study.ride_out(write)

    def note(self, claim: Claim, facts: Mapping[str, Any]) -> None:
        """Record facts of a trial, whatever is asked of it.

        Raises:
            Taken: The trial is another process's by now.
        """

        def write() -> None:
            with self.study.writing():
                if not self._holds(claim):
                    raise Taken
                self.study.set_facts(trial_id(claim.trial), facts)

        self.study.ride_out(write)

    def agree(self, claim: Claim, topic: str, fact: str) -> bool:
        """Record a fact of a trial, unless this process has, and compare it with what other trials reported of it.

        Returns:
            Whether they reported the same, or nothing.

        Raises:
            Taken: The trial is another process's by now.
        """
        key = f"{_SAME}{topic}"
        if self._agreed.get(topic) != fact:
            # Written before it is compared: of two processes that begin at once, one at least sees the other's.
            self.report(claim, {}, {key: fact})
            if {trial.user_attrs[key] for trial in self.study.trials() if trial.user_attrs.get(key)} != {fact}:
                self.report(claim, {}, {key: None})
                return False
            self._agreed[topic] = fact
        return True

    def holds(self, claim: Claim) -> bool:
        """Whether a trial is still this process's to work on."""
        return self.study.ride_out(lambda: self._holds(claim))

    @property
    def waits_for_verdicts(self) -> bool:
        """Whether a trial may not go on before its pruner has judged: in order, it ends where it is to end."""
        return self._prunes and self.study.order is not None

    def send_heartbeat(self, claim: Claim) -> bool:
        """Give a sign of life; returns whether the trial is still this process's. Waits for no storage."""
        with contextlib.suppress(Taken), self.study.writing():
            if self._holds(claim):
                self.study.set_facts(trial_id(claim.trial), {"beat": self.plan.clock.now()})
                return True
        return False

    def finish(self, claim: Claim, job: Job, mistake: UserError | None = None) -> None:
        """Record how a trial ended; the last that is written of it, so that a process killed before it starts anew.

        Nothing is recorded of a trial that another process has ended or taken up, having seen no heartbeat of this one.

        Args:
            mistake: What every other trial would stumble over as well: the study starts no more of them.
        """
        facts: dict[str, Any] = {"run_id": job.run_id, "run_dir": job.run_dir, "name": job.name, "reason": job.reason}
        facts |= {"traceback": job.traceback, "metrics": job.metrics or None, "seconds": job.seconds}
        facts |= {"ended": self.plan.clock.now()}
        facts |= {"mistake": [mistake.message, mistake.hint] if mistake else None}
        if job.runs and self.plan.repeats is not None:
            facts |= {DEVIATION: deviation(job.runs, self.plan.objectives[0].metric), SEEDS: len(job.runs)}

        def write() -> None:
            with contextlib.suppress(Taken), self.study.writing():
                trial = self._recorded(claim)
                if trial is None:
                    return
                known = trial.user_attrs
                if job.status == PRUNED and (known.get(COMMAND) or {}).get("word") == STOP:
                    facts["reason"] = stop_text(trial, known[COMMAND]["by"], self.plan.objectives)
                self.study.set_facts(
                    trial_id(claim.trial),
                    {key: value for key, value in facts.items() if value is not None and known.get(key) != value},
                )
                for one in self.plan.constraints if job.status == COMPLETED else ():
                    claim.trial.set_constraint(str(one), one.excess(job.metrics[one.metric]))
                self.study.end(claim.trial, _STATES[job.status], job.values if job.status == COMPLETED else None)

        self.study.ride_out(write)
        self._held.discard(claim.number)

    def pause(self, claim: Claim, job: Job) -> None:
        """Let go of a trial that waits at its rung, or that somebody paused; what it needs to go on is saved by now.

        A process that was killed before this leaves a trial that the next claim pauses.
        """

        def write() -> None:
            with contextlib.suppress(Taken), self.study.writing():
                trial = self._recorded(claim)
                if trial is None:
                    return
                facts: dict[str, Any] = {"run_id": job.run_id, "run_dir": job.run_dir, "name": job.name}
                facts |= {"metrics": job.metrics or None, SPENT: job.seconds}
                known = {key: value for key, value in facts.items() if value is not None}
                self.study.set_facts(trial_id(trial), {**known, "attempt": claim.attempt})
                if trial.user_attrs.get(COMMAND) is not None:
                    self._obey(trial)
                elif self.study.schedule.has_arrived(trial):
                    self.study.set_facts(trial_id(trial), self._pausing(trial))
                else:
                    # What it was to be paused for was taken back meanwhile.
                    self.study.set_facts(trial_id(trial), {"owner": None})

        self.study.ride_out(write)
        self._held.discard(claim.number)

    def release(self, claim: Claim) -> None:
        """Let go of a trial that was interrupted, which is not held against it: whoever comes next takes it up."""
        # Where even this is in vain, the process's death says the same.
        self.study.in_last_seconds(lambda: self._let_go(claim))
        self._held.discard(claim.number)

    def let_go(self, claim: Claim) -> None:
        """The same of a trial that this process was told to leave."""
        self.study.ride_out(lambda: self._let_go(claim))
        self._held.discard(claim.number)

    def lose(self, claim: Claim, reason: str) -> bool:
        """Let go of a trial that has made its process useless: a fresh one tries it once more, then it has failed.

        Returns:
            Whether it has failed.
        """

        def write() -> bool:
            with self.study.exclusively(), self.study.writing():
                trial = self._recorded(claim)
                if trial is None:
                    return False
                lost = 1 + (0 if _has_progressed(trial) else int(trial.user_attrs.get("lost", 0)))
                self.study.set_facts(trial_id(trial), {"attempt": claim.attempt, "lost": lost})
                if lost > _LOSSES:
                    self.study.fail(trial, f"{reason}; so it did in a fresh process")
                else:
                    self.study.set_facts(trial_id(trial), {"owner": None})
                return lost > _LOSSES

        self._held.discard(claim.number)
        return self.study.ride_out(write)

    def abandon(self, token: str, reason: str) -> list[int]:
        """Let go of what dead processes, whose tokens begin like this, left running.

        It is taken up again unless it has seen too many die; see :attr:`StudyPlan.retries`.

        Returns:
            The numbers of those trials.
        """

        def write() -> list[int]:
            found = []
            with self.study.exclusively(), self.study.writing():
                for trial in self.study.read_trials():
                    owner = trial.user_attrs.get("owner")
                    if trial.state is TrialState.RUNNING and owner and owner["token"].startswith(token):
                        found.append(trial.number)
                        if self._may_go_on(trial, reason):
                            attempt = int(trial.user_attrs.get("attempt", 0))
                            self.study.set_facts(trial_id(trial), {"attempt": attempt, "owner": None})
            return found

        return self.study.ride_out(write)

    def _let_go(self, claim: Claim) -> None:
        with contextlib.suppress(Taken), self.study.writing():
            trial = self._recorded(claim)
            if trial is None:
                return
            self.study.set_facts(trial_id(trial), {"attempt": claim.attempt, "owner": None})
            if trial.user_attrs.get(COMMAND) is not None:
                self._obey(trial)

    def _claim(self) -> Claim | None:
        study = self.study
        with study.exclusively():
            trials = study.read_trials()
            if study.read_stop_reason(trials):
                return None
            study.note_stopping()
            for trial in self._left_running(trials):
                if trial.user_attrs.get(COMMAND) is not None:
                    # Nobody is left who would have acted on it.
                    with study.writing():
                        self._obey(trial)
                    trials = study.read_trials()
                elif is_held(trial):
                    continue
                elif study.schedule.has_arrived(trial):
                    # Its process died before it had said so.
                    with study.writing():
                        study.set_facts(trial_id(trial), self._pausing(trial))
                    trials = study.read_trials()
                elif trial.user_attrs.get("owner") is None or self._owns(trial) or self._may_go_on(trial, None):
                    return self._assign(trial, trials)
            if study.schedule.is_spent(trials):
                return None
            if (promoted := study.schedule.to_promote(trials)) is not None:
                return self._assign(promoted[0], trials, promoted[1])
            if not study.schedule.has_room(study.schedule.begun(trials)) or not self._is_next_due(trials):
                return None
            return self._assign(None, trials)

    def _known(self, claim: Claim) -> Job | None:
        """What is known to come of a trial; training comes out the same, unless :attr:`StudyPlan.repeat` says not."""
        plan = self.plan
        # Of a continuous space, no sampler draws a point again: only a user may.
        if plan.repeat or (plan.points is None and not queued_values(claim.trial)):
            return None
        point = identity_of(claim.trial, plan.parameters)
        # Where it might be pruned, what it may know decides; else it comes out the same whether it is run or told.
        of = claim.trial.study if sees_results(plan.sampler, plan.pruner) else self.study.optuna
        for other in of.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if identity_of(other, plan.parameters) == point:
                facts = other.user_attrs
                runs = list(map(from_record, facts.get(RUNS, ())))
                self.report(claim, {}, {"same_as": other.number} | ({RUNS: facts[RUNS]} if runs else {}))
                kept = {key: facts.get(key) for key in ("run_id", "run_dir", "name")}
                metrics, values = dict(facts.get("metrics") or {}), list(other.values)
                return Job(claim.number, claim.overrides, COMPLETED, metrics=metrics, values=values, runs=runs, **kept)
        return None

    def _left_running(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The running trials that nobody runs."""
        return [
            trial
            for trial in self.study.schedule.open(trials)
            if trial.state is TrialState.RUNNING
            and not self.study.schedule.waits(trial)
            and (
                self.study.watch.is_dead(trial.user_attrs.get("owner"), trial.user_attrs.get("beat"))
                or (self._half_claimed and self._owns(trial) and trial.number not in self._held)
            )
        ]

    def _is_next_due(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether the next trial may begin; in an ordered study that waits until all is known that it may know."""
        schedule, order = self.study.schedule, self.study.order
        if order is None:
            return True
        queued = (trial.number for trial in schedule.open(trials) if trial.state is TrialState.WAITING)
        return order.may_begin(next(queued, len(trials)), trials, schedule.ended_at_first(trials), self.plan)

    def _assign(self, before: FrozenTrial | None, trials: Sequence[FrozenTrial], until: int | None = None) -> Claim:
        """Make a trial this process's, and choose for it what is not chosen yet; None begins the next one.

        Args:
            until: The epochs to which one goes on that is promoted.
        """
        # An error in here leaves a trial that is signed but not returned: the next claim looks for it.
        self._half_claimed = True
        study = self.study
        attempt, owner = 0, {**study.owner, "attempt": 0, "steps": 0}
        if before is not None:
            attempt = int(before.user_attrs.get("attempt", 0)) + 1
            owner |= {"attempt": attempt, "steps": steps_of(before)}
        owner |= {"since": self.plan.clock.now(), UNDERSTANDS: COMMANDS}
        with self.study.writing():
            asked = before or study.optuna.ask()
            view = self._view(asked, trials)
            trial = optuna.Trial(view.study, trial_id(asked))
            study.set_facts(trial_id(trial), {"owner": owner} | ({"attempt": attempt} if attempt else {}))
            study.set_facts(trial_id(trial), self._course(trial, before, until))
            if before is not None and before.user_attrs.get(LEAVE) is not None:
                # That was said to an owner of before.
                study.set_facts(trial_id(trial), {LEAVE: None})
        view.hold()
        if not trial.params:
            # Drawn before the storage is held again: some samplers need seconds.
            _ = trial.relative_params
        with self.study.writing():
            chosen: dict[str, Value] = choose(self.plan.parameters, trial)
            # With the point, what its sampler notes for the next ones: a draw is whole or was none.
            view.let_go()
        self._half_claimed = False
        self._held.add(trial.number)
        # One that is tried again has the finished runs of the one that failed.
        done = trial.user_attrs.get(RUNS, ()) if self.plan.repeats is not None else ()
        runs = tuple(map(from_record, done))
        return Claim(trial, to_overrides(chosen), attempt, runs, len(runs))

    def _view(self, trial: optuna.Trial | FrozenTrial, trials: Sequence[FrozenTrial]) -> View:
        """What a trial's sampler and pruner see; both are made anew, so that they remember nothing of other trials."""
        study, plan = self.study, self.plan
        tried = None if plan.repeat else self._tried
        sampler = create_sampler(plan.sampler, plan.parameters, plan.seed, trial.number, tried)
        shown: Shown = self._shown
        if study.order is not None:
            # What it may know has ended or been drawn, and changes no more.
            seen = map(_as_known, study.order.seen(trial.number, trials, plan))
            shown = partial(list, [*seen, study.storage.get_trial(trial_id(trial))])
        return View(study.optuna, shown, sampler, create_pruner(plan.pruner))

    def _shown(self) -> list[FrozenTrial]:
        trials, known = self.study.read_trials(), self._ended
        count = len(known)
        while count < len(trials) and trials[count].state.is_finished():
            count += 1
        if count > len(known):
            # Those change no more, so that a long study costs no look at each of them. Several threads come by here.
            self._ended = known = [*known, *map(_as_known, trials[len(known) : count])]
        return [*known[: len(trials)], *map(_as_known, trials[count:])]

    def _course(self, begun: optuna.Trial, before: FrozenTrial | None, until: int | None) -> dict[str, Any]:
        """What is to be recorded of where a trial runs to, as this process takes it up."""
        if self.plan.promotion is None:
            # Paused by an earlier start: it runs to its end, or is pruned.
            paused = before is not None and before.user_attrs.get(PAUSED) is not None
            return {UNTIL: None, PAUSED: None} if paused else {}
        trial = before or self.study.storage.get_trial(trial_id(begun))
        schedule, facts = self.study.schedule, trial.user_attrs
        if until is None and (UNTIL not in facts or facts.get(PAUSED) is not None):
            until = schedule.next_rung(trial)
        course = {BRACKET: schedule.bracket(trial), PAUSED: None} | ({} if until is None else {UNTIL: until})
        return {key: value for key, value in course.items() if facts.get(key) != value}

    def _goes_on(self, claim: Claim, steps: Mapping[int, float | None]) -> bool:
        """Whether a trial that has just reported goes on: it has not come to its rung, or is among the best there."""
        schedule = self.study.schedule
        trial = self.study.storage.get_trial(trial_id(claim.trial))
        if not schedule.has_arrived(trial):
            return True
        at = steps.get(trial.user_attrs[UNTIL], 0.0)
        # Without a value there is nothing to judge; what is no number is the worst.
        if at is None or schedule.rises(trial, self.study.read_trials()):
            self.study.set_facts(trial_id(trial), {UNTIL: schedule.next_rung(trial)})
            return True
        return False

    def _pausing(self, trial: FrozenTrial) -> dict[str, Any]:
        """What is recorded of a trial that is paused."""
        halving = self.plan.promotion
        assert halving is not None
        rung = halving.rung(steps_of(trial), self.study.schedule.bracket(trial))
        return {PAUSED: rung, PAUSED_AT: self.plan.clock.now(), "owner": None}

    def _may_go_on(self, trial: FrozenTrial, reason: str | None) -> bool:
        """Count the death of a trial's owner against it, unless it has progressed; fail it once that is too many."""
        deaths = 1 + (0 if _has_progressed(trial) else int(trial.user_attrs.get("deaths", 0)))
        if deaths <= self.plan.retries:
            self.study.set_facts(trial_id(trial), {"deaths": deaths})
            return True
        times = f"{deaths} times" if deaths > 1 else "once"
        because = f": {reason}" if reason else ""
        self.study.fail(trial, f"its process died {times} without finishing an epoch{because}")
        return False

    def _holds(self, claim: Claim) -> bool:
        return self._recorded(claim) is not None

    def _recorded(self, claim: Claim) -> FrozenTrial | None:
        """A trial as it is recorded, if it is still this process's to work on."""
        trial = self.study.storage.get_trial(trial_id(claim.trial))
        owner = trial.user_attrs.get("owner") or {}
        same = self._owns(trial) and owner.get("attempt", claim.attempt) == claim.attempt
        return trial if same and trial.state is TrialState.RUNNING else None

    def _asked(self, trial: FrozenTrial) -> type[Pruned | Paused] | None:
        """What somebody wants to become of a trial that this process runs."""
        command = trial.user_attrs.get(COMMAND)
        if command is not None:
            return Pruned if command["word"] == STOP else Paused
        return LetGo if self.leaving.is_set() or trial.user_attrs.get(LEAVE) is not None else None

    def _obey(self, trial: FrozenTrial) -> None:
        """Act on the command to a trial that nobody runs any more."""
        study, command = self.study, trial.user_attrs[COMMAND]
        if command["word"] == STOP:
            reason = stop_text(trial, command["by"], self.plan.objectives)
            study.set_facts(trial_id(trial), {"reason": reason, "ended": self.plan.clock.now()})
            study.end(optuna.Trial(study.optuna, trial_id(trial)), TrialState.PRUNED)
        else:
            study.set_facts(trial_id(trial), hold_facts(command["by"], self.plan.clock.now()) | {COMMAND: None})
            study.ledger.answer(command["number"], DONE)

    def _owns(self, trial: FrozenTrial) -> bool:
        return bool((trial.user_attrs.get("owner") or {}).get("token") == self.study.owner["token"])


def _has_progressed(trial: FrozenTrial) -> bool:
    """Whether a trial has made a step since its latest owner took it up."""
    return steps_of(trial) > int((trial.user_attrs.get("owner") or {}).get("steps", 0))


def _as_known(trial: FrozenTrial) -> FrozenTrial:
    """A trial as samplers and pruners know it: one that is paused as pruned, one that never began as failed."""
    if WITHDRAWN in trial.user_attrs:
        return as_failed(trial)
    return as_pruned(trial) if is_paused(trial) else trial
