"""A study shared by any number of processes: claim a trial, report on it, finish it; nothing lost, nothing twice.

Every trial that runs is signed by its owner. A trial whose owner died with nobody to answer for it is taken up
again by whoever comes next, under the same number. Knows Optuna, but not what a trial does.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from deepfake.errors import UserError
from deepfake.sweeping.observer import COMPLETED, FAILED, PRUNED, Job
from deepfake.sweeping.owner import Watch, new_owner
from deepfake.sweeping.plan import StudyPlan, describe_code, differences, fingerprint
from deepfake.sweeping.samplers import create_pruner, create_sampler
from deepfake.sweeping.space import Value, choose, to_overrides
from deepfake.sweeping.storage import exclusively, open_storage

#: Raised when what is kept with a study changes shape; an older program refuses a newer study.
FORMAT = 1
#: On a trial: the number of the failed one that it tries again.
RETRY_OF = "retry_of"
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
        self._storage: BaseStorage = open_storage(plan.location)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with exclusively(plan.location, self._storage), quietly():
            self._study, self.resumed = self._open()

    def trials(self) -> list[FrozenTrial]:
        """All that was begun or is queued, in order."""
        return self._study.get_trials(deepcopy=False)

    def claim(self) -> Claim | None:
        """The next trial for this process, or None: nothing is left, or what is left is with living owners."""
        with exclusively(self.plan.location, self._storage), quietly():
            trials = self.trials()
            if self.stop_reason(trials):
                return None
            for orphan in self._orphans(trials):
                attempt = int(orphan.user_attrs.get("attempt", 0)) + 1
                if attempt <= self.plan.retries:
                    return self._sign(optuna.Trial(self._study, orphan._trial_id), attempt)
                self._fail(orphan, f"its process died {attempt} times")
            begun = sum(trial.state is not TrialState.WAITING for trial in trials)
            if begun - len(superseded(trials)) >= self.plan.total:
                return None
            plan = self.plan
            self._study.sampler = create_sampler(plan.sampler, plan.parameters, plan.seed, begun, plan.repeat)
            return self._sign(self._study.ask(), 0)

    def finish(self, claim: Claim, job: Job, mistake: UserError | None = None) -> None:
        """Keep how a trial ended; the last that is written of it, so that a process killed before it starts anew.

        Args:
            mistake: What every other trial would stumble over as well: the study starts no more of them.
        """
        trial = claim.trial
        facts: dict[str, Any] = {"run_id": job.run_id, "run_dir": job.run_dir, "name": job.name, "reason": job.reason}
        facts |= {
            "traceback": job.traceback,
            "metrics": job.metrics or None,
            "seconds": job.seconds,
            "ended": time.time(),
        }
        facts |= {"mistake": [mistake.message, mistake.hint] if mistake else None}
        # Whoever took this process for dead, after a long sleep of its machine, may have ended the trial already.
        with contextlib.suppress(UpdateFinishedTrialError):
            for key, value in facts.items():
                if value is not None:
                    trial.set_user_attr(key, value)
            self._tell(trial, _STATES[job.status], job.values if job.status == COMPLETED else None)

    def release(self, claim: Claim) -> None:
        """Let go of a trial that was interrupted: it is taken up again by whoever comes next."""
        claim.trial.set_user_attr("attempt", claim.attempt)
        claim.trial.set_user_attr("owner", None)

    def fail_owned_by(self, token: str, reason: str) -> None:
        """Mark as failed what dead processes, whose tokens begin like this, left running."""
        with exclusively(self.plan.location, self._storage), quietly():
            for trial in self.trials():
                owner = trial.user_attrs.get("owner")
                if trial.state is TrialState.RUNNING and owner and owner["token"].startswith(token):
                    self._fail(trial, reason)

    def is_done(self, trials: Sequence[FrozenTrial] | None = None) -> bool:
        """Whether every trial of the study has ended."""
        trials = self.trials() if trials is None else trials
        return sum(trial.state.is_finished() for trial in standing(trials)) >= self.plan.total

    def enqueue(self, points: Sequence[Mapping[str, Any]], source: str | None = None) -> int:
        """Queue points to be tried before the sampler's own, each once, however often it is asked for.

        Args:
            points: Values by key; a key that is left out is drawn by the sampler.
            source: The study they are the best of; asked once, for its best may be others by the next start.

        Returns:
            How many are queued now.
        """
        with exclusively(self.plan.location, self._storage), quietly():
            return self._enqueue(points, source)

    def retry(self, which: str | int | Sequence[int]) -> list[int]:
        """Queue failed trials to be tried again, each under a new number; the failed one no longer counts.

        Args:
            which: ``failed`` for all of them, or numbers. What was tried again before is asked for by either number.

        Returns:
            The numbers of those that are tried again.

        Raises:
            UserError: There is no such trial, or it has not failed.
        """
        with exclusively(self.plan.location, self._storage), quietly():
            trials = self.trials()
            failed = [trial for trial in standing(trials) if trial.state is TrialState.FAIL]
            if which != "failed":
                numbers = [which] if isinstance(which, int) else [int(number) for number in which]
                last = {self._last_attempt(number, trials) for number in numbers}
                failed = [trial for trial in failed if trial.number in last]
            for trial in failed:
                self._study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})
            return [trial.number for trial in failed]

    def note_code(self) -> str | None:
        """Keep what code this start runs; in a few words how it differs from that of the trials there are."""
        with exclusively(self.plan.location, self._storage), quietly():
            known: list[dict[str, Any]] = json.loads(self._study.user_attrs.get("code", "[]"))
            now = dict(self.plan.code)
            begun = sum(trial.state is not TrialState.WAITING for trial in self.trials())
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
        found = [trial.user_attrs["mistake"] for trial in self._recent(trials) if "mistake" in trial.user_attrs]
        return UserError(*found[0]) if found else None

    def stop_reason(self, trials: Sequence[FrozenTrial]) -> str | None:
        """Why no further trial may start although some are left: a mistake in all of them, failures, or time."""
        recent = self._recent(trials)
        if mistake := self.mistake(trials):
            return mistake.message
        row = 0
        for trial in recent:
            row = row + 1 if trial.state is TrialState.FAIL else 0
        if self.plan.max_failures is not None and row >= self.plan.max_failures:
            first = next(trial for trial in recent[-row:])
            return f"{row} trials in a row failed, the first because of {first.user_attrs.get('reason')}"
        if self.plan.deadline is not None and time.time() >= self.plan.deadline:
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

    @contextlib.contextmanager
    def beating(self, claim: Claim) -> Iterator[None]:
        """Give signs of life while a trial runs."""
        done = threading.Event()

        def beat() -> None:
            with contextlib.suppress(UpdateFinishedTrialError):
                while not done.wait(self.plan.heartbeat):
                    claim.trial.set_user_attr("beat", time.time())

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

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
        before = len(self.trials())
        for point in points:
            self._study.enqueue_trial(dict(point), skip_if_exists=True)
        if source is not None:
            self._study.set_user_attr("sources", json.dumps([*taken, source]))
        return len(self.trials()) - before

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
        changes = differences(
            json.loads(study.user_attrs["fingerprint"]), self._fingerprint(), given, self.plan.recorded
        )
        if changes:
            raise UserError(
                f"study {self.plan.name!r} was begun differently: {'; '.join(changes)}",
                "give sweep.name=<new name> for a study of its own, or put back what changed",
            )

    def _recent(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """What ended since this start, in the order in which it ended."""
        ended = [(float(t.user_attrs.get("ended", 0)), t) for t in trials if t.state.is_finished()]
        return [t for when, t in sorted(ended, key=lambda pair: pair[0]) if when >= self.plan.began]

    def _orphans(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        running = [trial for trial in trials if trial.state is TrialState.RUNNING]
        return [t for t in running if self._watch.is_dead(t.user_attrs.get("owner"), t.user_attrs.get("beat"))]

    def _sign(self, trial: optuna.Trial, attempt: int) -> Claim:
        trial.set_user_attr("owner", self.owner)
        if attempt:
            trial.set_user_attr("attempt", attempt)
        chosen: dict[str, Value] = choose(self.plan.parameters, trial)
        return Claim(trial, to_overrides(chosen), attempt)

    def _fail(self, trial: FrozenTrial, reason: str) -> None:
        handle = optuna.Trial(self._study, trial._trial_id)
        handle.set_user_attr("reason", reason)
        handle.set_user_attr("ended", time.time())
        self._tell(handle, TrialState.FAIL, None)

    def _tell(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None) -> None:
        with quietly():
            try:
                self._study.tell(trial, values, state=state)
            except RuntimeError:
                # Samplers that list every point ask the loop to stop after the last one; there is no such loop.
                if not self._storage.get_trial(trial._trial_id).state.is_finished():
                    raise


def superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of failed trials that were tried again under another number."""
    return {int(trial.user_attrs[RETRY_OF]) for trial in trials if RETRY_OF in trial.user_attrs}


def standing(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: all but those tried again under another number."""
    gone = superseded(trials)
    return [trial for trial in trials if trial.number not in gone] if gone else list(trials)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without Optuna's warnings that it may change, which a user can do nothing about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="optuna")
        yield
