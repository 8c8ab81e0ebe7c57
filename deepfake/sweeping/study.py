"""A study shared by any number of processes: claim a trial, report on it, finish it; nothing lost, nothing twice.

Every trial that runs is signed by its owner. A trial whose owner died with nobody to answer for it is taken up
again by whoever comes next, under the same number, unless it died too often without a step in between; and an owner
that was taken for dead writes nothing more. Knows Optuna, but not what a trial does.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from deepfake.compat import trial_id
from deepfake.errors import UserError
from deepfake.sweeping.callbacks import COMPLETED, FAILED, PRUNED, Job
from deepfake.sweeping.heartbeat import Watch, new_owner
from deepfake.sweeping.outage import PATIENCE, ride_out
from deepfake.sweeping.results import RETRY_OF, Tally, standing, steps_of
from deepfake.sweeping.samplers import Tried, create_pruner, create_sampler, is_pruning
from deepfake.sweeping.search_space import Value, choose, to_overrides
from deepfake.sweeping.storage import check_place, exclusively, keep_place, open_again, open_storage, together
from deepfake.sweeping.study_plan import StudyPlan, describe_code, differences, fingerprint
from deepfake.sweeping.trial import Taken

T = TypeVar("T")

#: Raised when what is kept with a study changes shape; an older program refuses a newer study.
FORMAT = 1
#: How long a process that is told to end waits for its storage, in seconds.
_LAST_WORDS = 3.0
#: How often a trial may make its process useless and is still tried again.
_LOSSES = 1
#: Before the name of what all trials of a study are to have alike, among the facts kept with each.
_SAME = "same: "
_STATES = {COMPLETED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}


@dataclass(frozen=True)
class Claim:
    """A trial this process is to run.

    Attributes:
        overrides: What was chosen for it.
        attempt: How often it was begun before.
    """

    trial: optuna.Trial
    overrides: list[str]
    attempt: int

    @property
    def number(self) -> int:
        return self.trial.number


class Study:
    """An open study.

    Args:
        plan: What all its processes agree on.
        supervisor: The process that answers for the death of this one, if there is one.
        token: What that process calls this one.

    Raises:
        UserError: The storage cannot be used, or holds another study under this name.
    """

    def __init__(self, plan: StudyPlan, supervisor: Mapping[str, Any] | None = None, token: str | None = None) -> None:
        self.plan = plan
        self.owner = new_owner(supervisor, plan.heartbeat, token)
        self._watch = Watch()
        # One thread writes at a time: the heartbeat beside whoever runs the trial.
        self._lock = threading.RLock()
        self._tally = Tally(plan.began)
        # The points of ended trials by number, as the sampler compares them.
        self._tried: Tried = {}
        self._last_seen: list[FrozenTrial] = []
        self._half_claimed = self._silent = False
        # What :meth:`agree` has found to be the same, by topic.
        self._agreed: dict[str, str] = {}
        self._prunes = is_pruning(plan.pruner)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if token is None:
            check_place(plan.location, plan.folder)
            self._storage: BaseStorage = open_storage(plan.location)
        else:
            # Its parent has just been there: what does not answer now will again.
            self._storage = self._ride_out(lambda: open_again(plan.location))
        # What does not answer one who has just begun is told at once.
        self._study, self.resumed = self._ride_out(self._open_exclusively, 0.0 if token is None else None)
        if token is None:
            keep_place(plan.location, plan.folder)

    def trials(self) -> list[FrozenTrial]:
        """All that was begun or is queued, in order."""
        self._last_seen = self._ride_out(self._get_trials)
        return self._last_seen

    def last_trials(self) -> list[FrozenTrial]:
        """The same for a process that is told to end, which waits for no storage: else as they were seen last."""
        return self._in_last_moments(self._get_trials) or self._last_seen

    def claim(self) -> Claim | None:
        """The next trial for this process, or None: nothing is left, or what is left is with living owners."""
        return self._ride_out(self._claim)

    def report(self, claim: Claim, steps: Mapping[int, float | None], facts: Mapping[str, Any] | None = None) -> bool:
        """Keep the objective's value at steps, the trial's progress alone where that is None, and facts.

        Returns:
            Whether the pruner wants the trial to end.

        Raises:
            Taken: The trial is another process's by now.
        """

        def keep() -> bool:
            with self._writing():
                if not self._holds(claim):
                    raise Taken
                self._set(trial_id(claim.trial), facts or {})
                if reached := [step for step, value in steps.items() if value is None]:
                    self._set(trial_id(claim.trial), {"progress": max(reached)})
                values = {step: value for step, value in steps.items() if value is not None}
                for step, value in values.items():
                    claim.trial.report(value, step)
                # Within, for some pruners keep what they judged by.
                return bool(values) and self._prunes and claim.trial.should_prune()

        return self._ride_out(keep)

    def agree(self, claim: Claim, topic: str, fact: str) -> bool:
        """Keep a fact of a trial, unless this process has, and compare it with what other trials told of the topic.

        Returns:
            Whether they told the same, or nothing.

        Raises:
            Taken: The trial is another process's by now.
        """
        key = f"{_SAME}{topic}"
        if self._agreed.get(topic) != fact:
            # Told before it is compared: of two processes that begin at once, one at least sees the other's.
            self.report(claim, {}, {key: fact})
            if {trial.user_attrs[key] for trial in self.trials() if trial.user_attrs.get(key)} != {fact}:
                self.report(claim, {}, {key: None})
                return False
            self._agreed[topic] = fact
        return True

    def holds(self, claim: Claim) -> bool:
        """Whether a trial is still this process's to work on."""
        return self._ride_out(lambda: self._holds(claim))

    def beat(self, claim: Claim) -> bool:
        """Give a sign of life; returns whether the trial is still this process's. Waits for no storage."""
        with contextlib.suppress(Taken), self._writing():
            if self._holds(claim):
                self._set(trial_id(claim.trial), {"beat": time.monotonic()})
                return True
        return False

    def notice_outage(self) -> None:
        """While the storage was away nobody could give signs of life: what was not seen counts for nothing."""
        self._watch.forgive()

    def finish(self, claim: Claim, job: Job, mistake: UserError | None = None) -> None:
        """Keep how a trial ended; the last that is written of it, so that a process killed before it starts anew.

        Nothing is kept of a trial that another process has ended or taken up, having seen this one asleep.

        Args:
            mistake: What every other trial would stumble over as well: the study starts no more of them.
        """
        facts: dict[str, Any] = {"run_id": job.run_id, "run_dir": job.run_dir, "name": job.name, "reason": job.reason}
        facts |= {
            "traceback": job.traceback,
            "metrics": job.metrics or None,
            "seconds": job.seconds,
            "ended": self.plan.clock.now(),
        }
        facts |= {"mistake": [mistake.message, mistake.hint] if mistake else None}

        def keep() -> None:
            with contextlib.suppress(Taken), self._writing():
                if not self._holds(claim):
                    return
                known = self._storage.get_trial(trial_id(claim.trial)).user_attrs
                self._set(
                    trial_id(claim.trial),
                    {key: value for key, value in facts.items() if value is not None and known.get(key) != value},
                )
                self._tell(claim.trial, _STATES[job.status], job.values if job.status == COMPLETED else None)

        self._ride_out(keep)

    def release(self, claim: Claim) -> None:
        """Let go of a trial that was interrupted, which is not held against it: whoever comes next takes it up."""

        def keep() -> None:
            with contextlib.suppress(Taken), self._writing():
                if self._holds(claim):
                    self._set(trial_id(claim.trial), {"attempt": claim.attempt, "owner": None})

        # Where even this is in vain, the process's death tells the same.
        self._in_last_moments(keep)

    def lose(self, claim: Claim, reason: str) -> bool:
        """Let go of a trial that has made its process useless: a fresh one tries it once more, then it has failed.

        Returns:
            Whether it has failed.
        """

        def keep() -> bool:
            with self._exclusively(), self._writing():
                if not self._holds(claim):
                    return False
                trial = self._storage.get_trial(trial_id(claim.trial))
                lost = 1 + (0 if self._has_moved(trial) else int(trial.user_attrs.get("lost", 0)))
                self._set(trial_id(trial), {"attempt": claim.attempt, "lost": lost})
                if lost > _LOSSES:
                    self._fail(trial, f"{reason}; so it did in a fresh process")
                else:
                    self._set(trial_id(trial), {"owner": None})
                return lost > _LOSSES

        return self._ride_out(keep)

    def abandon(self, token: str, reason: str) -> list[int]:
        """Let go of what dead processes, whose tokens begin like this, left running.

        It is taken up again unless it has seen too many die; see :attr:`StudyPlan.retries`.

        Returns:
            The numbers of those trials.
        """

        def keep() -> list[int]:
            found = []
            with self._exclusively(), quietly(), self._writing():
                for trial in self._get_trials():
                    owner = trial.user_attrs.get("owner")
                    if trial.state is TrialState.RUNNING and owner and owner["token"].startswith(token):
                        found.append(trial.number)
                        if self._survives(trial, reason):
                            attempt = int(trial.user_attrs.get("attempt", 0))
                            self._set(trial_id(trial), {"attempt": attempt, "owner": None})
            return found

        return self._ride_out(keep)

    def is_done(self, trials: Sequence[FrozenTrial] | None = None) -> bool:
        """Whether every trial of the study has ended."""
        trials = self.trials() if trials is None else trials
        return self._tally.count(trials) >= self.plan.total

    def enqueue(self, points: Sequence[Mapping[str, Any]], source: str | None = None) -> int:
        """Queue points to be tried before the sampler's own, each once, however often it is asked for.

        Args:
            points: Values by key; a key that is left out is drawn by the sampler.
            source: The study they are the best of; asked once, for its best may be others by the next start.

        Returns:
            How many are queued now.
        """

        def queue() -> int:
            with self._exclusively(), quietly():
                return self._enqueue(points, source)

        return self._ride_out(queue)

    def retry(self, which: str | int | Sequence[int]) -> list[int]:
        """Queue failed trials to be tried again, each under a new number; the failed one no longer counts.

        Args:
            which: ``failed`` for all of them, or numbers. What was tried again before is asked for by either number.

        Returns:
            The numbers of those that are tried again.

        Raises:
            UserError: There is no such trial, or it has not failed.
        """
        asked: list[int] = []

        def queue() -> None:
            with self._exclusively(), quietly():
                trials = self._get_trials()
                failed = [trial for trial in standing(trials) if trial.state is TrialState.FAIL]
                if which != "failed" and not asked:
                    numbers = [which] if isinstance(which, int) else [int(number) for number in which]
                    asked.extend({self._last_attempt(number, trials) for number in numbers})
                elif not asked:
                    asked.extend(trial.number for trial in failed)
                # Those that an outage did not let be queued, where it is done again.
                for trial in failed:
                    if trial.number in asked:
                        self._study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})

        self._ride_out(queue)
        return sorted(asked)

    def note_code(self) -> str | None:
        """Keep what code this start runs; in a few words how it differs from that of the trials there are."""
        return self._ride_out(self._note_code)

    def _note_code(self) -> str | None:
        with self._exclusively(), quietly():
            known: list[dict[str, Any]] = json.loads(self._study.user_attrs.get("code", "[]"))
            now = dict(self.plan.code)
            begun = sum(trial.state is not TrialState.WAITING for trial in self._get_trials())
            if not known or known[-1]["code"] != now:
                # Nothing was begun since the last entry: no trial ran that code.
                known = [entry for entry in known if entry["trial"] < begun] + [{"trial": begun, "code": now}]
                self._study.set_user_attr("code", json.dumps(known))
            others = [entry["code"] for entry in known if entry["trial"] < begun and entry["code"] != now]
        if not others:
            return None
        before = ", ".join(dict.fromkeys(describe_code(code) for code in others))
        return f"the code is not the one that ran earlier trials: {before}; now {describe_code(now)}"

    def mistake(self, trials: Sequence[FrozenTrial]) -> UserError | None:
        """What this start's trials would all stumble over, if one of them has."""
        self._tally.count(trials)
        return self._tally.mistake

    def stop_reason(self, trials: Sequence[FrozenTrial]) -> str | None:
        """Why no further trial may start although some are left: a mistake in all of them, failures, or time."""
        if mistake := self.mistake(trials):
            return mistake.message
        row = self._tally.failures_in_a_row()
        if self.plan.max_failures is not None and len(row) >= self.plan.max_failures:
            return f"{len(row)} trials in a row failed, the first because of {row[0].user_attrs.get('reason')}"
        if self.plan.deadline is not None and self.plan.clock.now() >= self.plan.deadline:
            return "sweep.timeout is over"
        return None

    def importance(self) -> dict[str, float]:
        """The share of the first objective's variance that each key explains; empty where it cannot be told."""
        from optuna.importance import get_param_importances

        several = len(self.plan.objectives) > 1
        with quietly():
            try:
                return get_param_importances(self._study, target=(lambda trial: trial.values[0]) if several else None)
            except (ValueError, RuntimeError):
                # Too few completed trials, or all of them alike.
                return {}

    def _claim(self) -> Claim | None:
        with self._exclusively(), quietly():
            trials = self._get_trials()
            if self.stop_reason(trials):
                return None
            for trial in self._left(trials):
                if trial.user_attrs.get("owner") is None or self._is_mine(trial) or self._survives(trial, None):
                    return self._sign(trial_id(trial), trial)
            begun = len(trials) - sum(trial.state is TrialState.WAITING for trial in self._tally.open(trials))
            if begun - len(self._tally.superseded) >= self.plan.total:
                return None
            plan = self.plan
            tried = None if plan.repeat else self._tried
            self._study.sampler = create_sampler(plan.sampler, plan.parameters, plan.seed, begun, tried)
            return self._sign(None, None)

    def _left(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The running trials that nobody runs."""
        self._tally.count(trials)
        running = [trial for trial in self._tally.open(trials) if trial.state is TrialState.RUNNING]
        return [
            trial
            for trial in running
            if self._watch.is_dead(trial.user_attrs.get("owner"), trial.user_attrs.get("beat"))
            or (self._half_claimed and self._is_mine(trial))
        ]

    def _sign(self, key: int | None, before: FrozenTrial | None) -> Claim:
        """Make a trial this process's, and choose for it what is not chosen yet; None begins a new one."""
        # An error in here leaves a trial that is signed but not returned: the next claim looks for it.
        self._half_claimed = True
        attempt, owner = 0, {**self.owner, "attempt": 0, "steps": 0}
        if before is not None:
            attempt = int(before.user_attrs.get("attempt", 0)) + 1
            owner |= {"attempt": attempt, "steps": steps_of(before)}
        with self._writing():
            trial = self._study.ask() if key is None else optuna.Trial(self._study, key)
            self._set(trial_id(trial), {"owner": owner} | ({"attempt": attempt} if attempt else {}))
        if not trial.params:
            # Drawn before the storage is held again: some samplers take their time.
            _ = trial.relative_params
        with self._writing():
            chosen: dict[str, Value] = choose(self.plan.parameters, trial)
        self._half_claimed = False
        return Claim(trial, to_overrides(chosen), attempt)

    def _survives(self, trial: FrozenTrial, reason: str | None) -> bool:
        """Count the death of a trial's owner against it, unless it has got on since; fail it once that is too many."""
        deaths = 1 + (0 if self._has_moved(trial) else int(trial.user_attrs.get("deaths", 0)))
        if deaths <= self.plan.retries:
            self._set(trial_id(trial), {"deaths": deaths})
            return True
        times = f"{deaths} times" if deaths > 1 else "once"
        self._fail(trial, f"its process died {times} without finishing an epoch" + (f": {reason}" if reason else ""))
        return False

    @staticmethod
    def _has_moved(trial: FrozenTrial) -> bool:
        """Whether a trial has made a step since its latest owner took it up."""
        return steps_of(trial) > int((trial.user_attrs.get("owner") or {}).get("steps", 0))

    def _holds(self, claim: Claim) -> bool:
        trial = self._storage.get_trial(trial_id(claim.trial))
        owner = trial.user_attrs.get("owner") or {}
        return bool(
            trial.state is TrialState.RUNNING
            and owner.get("token") == self.owner["token"]
            and owner.get("attempt", claim.attempt) == claim.attempt
        )

    def _is_mine(self, trial: FrozenTrial) -> bool:
        return (trial.user_attrs.get("owner") or {}).get("token") == self.owner["token"]

    def _set(self, trial: int, facts: Mapping[str, Any]) -> None:
        for key, value in facts.items():
            self._storage.set_trial_user_attr(trial, key, value)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Write together; raises Taken where a trial turns out to have been ended by another process."""
        try:
            with self._lock, together(self._storage):
                yield
        except UpdateFinishedTrialError as error:
            raise Taken from error

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        with self._lock, exclusively(self.plan.location, self._storage):
            yield

    @contextlib.contextmanager
    def between_writes(self) -> Iterator[None]:
        """While entered, no other thread of this process is writing to the study."""
        with self._lock:
            yield

    def _ride_out(self, action: Callable[[], T], patience: float | None = None) -> T:
        return ride_out(action, self.plan.location, PATIENCE if patience is None else patience, self.notice_outage)

    def _in_last_moments(self, action: Callable[[], T]) -> T | None:
        """Do something that a process which is told to end has moments for; None where they were not enough.

        A storage that was silent once is not waited for a second time.
        """
        if self._silent:
            return None
        done: list[T] = []

        def attempt() -> None:
            with contextlib.suppress(UserError):
                done.append(self._ride_out(action, _LAST_WORDS))

        # Nobody waits longer for this thread, not even the interpreter's end.
        thread = threading.Thread(target=attempt, name="last words", daemon=True)
        thread.start()
        thread.join(_LAST_WORDS)
        self._silent = not done
        return done[0] if done else None

    def _get_trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _open_exclusively(self) -> tuple[optuna.Study, bool]:
        with self._exclusively(), quietly():
            return self._open()

    def _open(self) -> tuple[optuna.Study, bool]:
        plan = self.plan
        settings: dict[str, Any] = {
            "study_name": plan.name,
            "storage": self._storage,
            "pruner": create_pruner(plan.pruner),
            "sampler": create_sampler(plan.sampler, plan.parameters, plan.seed, 0),
        }
        try:
            directions = [optuna.study.StudyDirection[item.direction.upper()] for item in plan.objectives]
            study = optuna.create_study(directions=directions, **settings)
        except DuplicatedStudyError:
            study = optuna.load_study(**settings)
            if "format" in study.user_attrs:
                self._check_same(study)
                return study, True
        # The format is written last: a process killed before it leaves a study that the next one completes.
        study.set_user_attr("fingerprint", json.dumps(self._fingerprint()))
        study.set_user_attr("overrides", json.dumps(plan.recorded))
        study.set_user_attr("choices", json.dumps(plan.choices))
        study.set_user_attr("format", FORMAT)
        return study, False

    def _enqueue(self, points: Sequence[Mapping[str, Any]], source: str | None) -> int:
        taken = json.loads(self._study.user_attrs.get("sources", "[]"))
        if source in taken:
            return 0
        before = len(self._get_trials())
        for point in points:
            self._study.enqueue_trial(dict(point), skip_if_exists=True)
        if source is not None:
            self._study.set_user_attr("sources", json.dumps([*taken, source]))
        return len(self._get_trials()) - before

    def _last_attempt(self, number: int, trials: Sequence[FrozenTrial]) -> int:
        """The number under which a failed trial was last tried."""
        later = {int(trial.user_attrs[RETRY_OF]): trial.number for trial in trials if RETRY_OF in trial.user_attrs}
        last = number
        while last in later:
            last = later[last]
        if last == number and (number >= len(trials) or trials[number].state is not TrialState.FAIL):
            failed = [str(trial.number) for trial in standing(trials) if trial.state is TrialState.FAIL]
            raise UserError(
                f"sweep.retry={number}: trial {number} has not failed",
                f"failed are {', '.join(failed)}" if failed else "no trial of the study has failed",
            )
        return last

    def _fingerprint(self) -> dict[str, dict[str, str]]:
        return fingerprint(self.plan.parameters, self.plan.objectives, self.plan.setting)

    def _check_same(self, study: optuna.Study) -> None:
        written = study.user_attrs["format"]
        if written != FORMAT:
            raise UserError(
                f"study {self.plan.name!r} was written by another version (format {written}, ours is {FORMAT})",
                "update this program, or give another sweep.name",
            )
        given = json.loads(study.user_attrs.get("overrides", "null"))
        before, plan = json.loads(study.user_attrs["fingerprint"]), self.plan
        changes = differences(before, self._fingerprint(), given, plan.recorded, plan.environment)
        if changes:
            raise UserError(
                f"study {self.plan.name!r} was begun differently: {'; '.join(changes)}",
                "give sweep.name=<new name> for a study of its own, or put back what changed",
            )

    def _fail(self, trial: FrozenTrial, reason: str) -> None:
        self._set(trial_id(trial), {"reason": reason, "ended": self.plan.clock.now()})
        self._tell(optuna.Trial(self._study, trial_id(trial)), TrialState.FAIL, None)

    def _tell(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None) -> None:
        with quietly():
            try:
                self._study.tell(trial, values, state=state)
            except RuntimeError:
                # Samplers that list every point ask the loop to stop after the last one; there is no such loop.
                if not self._storage.get_trial(trial_id(trial)).state.is_finished():
                    raise


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without Optuna's warnings that it may change, which a user can do nothing about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="optuna")
        yield
