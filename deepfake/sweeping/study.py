"""A study opened by any number of processes: held to its plan, read, and written to safely. Knows Optuna.

Which process works on which trial is decided in :mod:`deepfake.sweeping.claims`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from deepfake.compat import trial_id
from deepfake.errors import UserError
from deepfake.installation import typed_command
from deepfake.sweeping.callbacks import Objective
from deepfake.sweeping.commands import (
    COMMANDS,
    DONE,
    PENDING,
    REFUSED,
    START,
    STOP,
    STOPPED,
    UNDERSTANDS,
    WORKERS,
    Command,
    Ledger,
    commands_in,
    start_of,
)
from deepfake.sweeping.facts import COMMAND, RETRY_OF
from deepfake.sweeping.heartbeat import Watch, new_owner
from deepfake.sweeping.order import Order, check_order, from_record, new_order, to_record
from deepfake.sweeping.outage import PATIENCE, ride_out
from deepfake.sweeping.repeats import RUNS
from deepfake.sweeping.schedule import Schedule, standing, to_retry
from deepfake.sweeping.storage import (
    check_place,
    exclusively,
    open_again,
    open_storage,
    record_place,
    together,
)
from deepfake.sweeping.study_plan import StudyPlan, describe_code, differences, fingerprint
from deepfake.sweeping.trial import Taken

T = TypeVar("T")

#: Raised when what is recorded with a study changes shape; an older program refuses a newer study.
FORMAT = 1
#: On a study: up to how many of its trials the terminator was asked.
_STOPPING = "stopping"
#: On a study: the runs of trials that had ended before the tracking server named them, by the trials' numbers.
_RUN_IDS = "run_ids"
#: How long a process that is told to end waits for its storage, in seconds.
_LAST_SECONDS = 3.0


class Study:
    """An open study.

    Args:
        plan: What all its processes agree on.
        supervisor: The process that answers for the death of this one, if there is one.
        token: What that process calls this one.

    Attributes:
        owner: This process, as it signs the trials that it runs.
        watch: What this process knows of other owners' heartbeats.
        schedule: How far the study is.
        order: What its trials may know of each other; None where that is left to timing.
        optuna: Optuna's study.
        ledger: What was asked of it from other terminals.
        resumed: Whether the study was there before.

    Raises:
        UserError: The storage cannot be used, or holds another study under this name.
    """

    def __init__(self, plan: StudyPlan, supervisor: Mapping[str, Any] | None = None, token: str | None = None) -> None:
        self.plan = plan
        self.owner = new_owner(supervisor, plan.heartbeat, token)
        self.watch = Watch()
        self.schedule = Schedule(plan)
        # One thread writes at a time: the heartbeat's, or that of the trial.
        self._lock = threading.RLock()
        self._last_seen: list[FrozenTrial] = []
        self._silent = False
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if token is None:
            check_place(plan.location, plan.folder)
            self.storage: BaseStorage = open_storage(plan.location)
        else:
            # Its parent opened the storage a moment ago, so that one which does not answer is waited for.
            self.storage = self.ride_out(lambda: open_again(plan.location))
        # A user who has just started a study learns at once that its storage does not answer.
        self.optuna, self.resumed = self.ride_out(self._open_exclusively, 0.0 if token is None else None)
        self.order = _recorded_order(self.optuna)
        self.ledger = Ledger(self.optuna, self.storage, plan.clock.now)
        self.schedule.lag = 1 if self.order is None else self.order.lag
        self.schedule.stopping.remember(self.optuna.user_attrs.get(_STOPPING))
        if token is None:
            record_place(plan.location, plan.folder)

    def trials(self) -> list[FrozenTrial]:
        """All that was begun or is queued, in order."""
        self._last_seen = self.ride_out(self.read_trials)
        return self._last_seen

    def last_trials(self) -> list[FrozenTrial]:
        """The same for a process that is told to end: after a short wait the trials as they were last read."""
        return self.in_last_seconds(self.read_trials) or self._last_seen

    def read_trials(self) -> list[FrozenTrial]:
        """The same, without waiting for a storage that does not answer."""
        return self.optuna.get_trials(deepcopy=False)

    def enqueue(self, points: Sequence[Mapping[str, Any]], source: str | None = None) -> int:
        """Queue points to be tried before the sampler's own, each once, however often it is asked for.

        Args:
            points: Values by key; a key that is left out is drawn by the sampler.
            source: The study they are the best of; asked once, for its best may be others by the next start.

        Returns:
            How many are queued now.
        """

        def queue() -> int:
            with self.exclusively():
                sources = json.loads(self.optuna.user_attrs.get("sources", "[]"))
                if source in sources:
                    return 0
                before = len(self.read_trials())
                for point in points:
                    self.optuna.enqueue_trial(dict(point), skip_if_exists=True)
                if source is not None:
                    self.optuna.set_user_attr("sources", json.dumps([*sources, source]))
                return len(self.read_trials()) - before

        return self.ride_out(queue)

    def retry(self, which: str | int | Sequence[int]) -> list[int]:
        """Queue failed trials to be tried again, each under a new number; the failed one no longer counts.

        Args:
            which: As :func:`deepfake.sweeping.schedule.to_retry` reads it.

        Returns:
            The numbers of those that are tried again.

        Raises:
            UserError: There is no such trial, or it has not failed.
        """
        numbers: list[int] = []

        def queue() -> None:
            with self.exclusively():
                trials = self.read_trials()
                if not numbers:
                    numbers.extend(to_retry(which, trials))
                queue_again(self.optuna, numbers, trials)

        self.ride_out(queue)
        return numbers

    def note_stopping(self) -> None:
        """Record how far it has been looked for an end by a rule that takes a moment, so that nobody looks again."""
        if (seen := self.schedule.stopping.to_remember()) is not None:
            self.optuna.set_user_attr(_STOPPING, seen)

    def note_code(self) -> str | None:
        """Record what code this start runs; returns in a few words how it differs from that of the trials there are."""
        return self.ride_out(self._note_code)

    def set_facts(self, trial: int, facts: Mapping[str, Any]) -> None:
        """Record facts of a trial, which is named by its key in the storage."""
        for key, value in facts.items():
            self.storage.set_trial_user_attr(trial, key, value)

    def note_runs(self, ids: Mapping[str, str]) -> None:
        """Record which runs trials have whose server named them late, by their folders."""

        def write() -> None:
            with self.exclusively(), self.writing():
                ended = dict(self.optuna.user_attrs.get(_RUN_IDS) or {})
                for trial in self.read_trials():
                    found = ids.get(str(trial.user_attrs.get("run_dir")))
                    if found is None or trial.user_attrs.get("run_id"):
                        continue
                    if trial.state.is_finished():
                        # Optuna changes no trial that has ended.
                        ended[str(trial.number)] = found
                    else:
                        self.set_facts(trial_id(trial), {"run_id": found})
                if ended:
                    self.optuna.set_user_attr(_RUN_IDS, ended)

        self.ride_out(write)

    def with_runs(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The trials, each with the run that :meth:`note_runs` recorded for it."""
        ids = self.optuna.user_attrs.get(_RUN_IDS) or {}
        found = [copy.copy(trial) if str(trial.number) in ids else trial for trial in trials]
        for trial in found:
            if (run_id := ids.get(str(trial.number))) is not None:
                trial.user_attrs = {**trial.user_attrs, "run_id": run_id}
        return found

    def end(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
        """End a trial in a state."""
        asked = self.storage.get_trial(trial_id(trial)).user_attrs.get(COMMAND)
        if asked is not None:
            self.set_facts(trial_id(trial), {COMMAND: None})
            done = state is TrialState.PRUNED and asked["word"] == STOP
            why = f"trial {trial.number} was {state.name.lower()} first"
            self.ledger.answer(asked["number"], DONE if done else REFUSED, "" if done else why)
        if state is TrialState.PRUNED and len(self.plan.objectives) > 1:
            # Optuna would make the one objective that was reported all of the trial's values.
            self.storage.set_trial_state_values(trial_id(trial), state)
            return
        with quietly():
            self.optuna.tell(trial, values, state=state)

    # ---- commands

    def sign(self, how: str, workers: int) -> None:
        """Record that this start works on the study, so that others can see it and command it.

        Args:
            how: Where its trials run: ``here``, ``pool`` or ``launched``.
            workers: How many at a time.
        """
        plan = self.plan
        budget = None if plan.budget is None else [plan.budget.amount, plan.budget.in_epochs]
        record = {**self.owner, "began": plan.began, "how": how, "workers": workers, UNDERSTANDS: COMMANDS}
        record |= {"total": plan.total, "budget": budget, "repeat": plan.repeat, "deadline": plan.deadline}
        record |= {"promotes": plan.promotion is not None, "fuse": plan.fuse}
        self.ride_out(lambda: self._record_start(record))

    def sign_off(self, status: str) -> None:
        """Record how this start ended; what was asked of it and not done yet is refused."""

        def write() -> None:
            with self.exclusively(), self.writing():
                key = f"{START}{self.owner['token']}"
                record = self.ledger.attributes().get(key)
                if record is not None:
                    self.ledger.record(key, {**record, "ended": status, "ended_at": self.plan.clock.now()})
                for command in self._asked(WORKERS, self.ledger.attributes()):
                    self.ledger.answer(command.number, REFUSED, "its workers had ended")

        if status == "interrupted":
            self.in_last_seconds(write)
        else:
            self.ride_out(write)

    def asked(self, word: str) -> list[Command]:
        """What was asked of this start and is not done yet."""
        return self._asked(word, self.ride_out(self.ledger.attributes))

    def stop_reason(self, trials: Sequence[FrozenTrial]) -> str | None:
        """Why no further trial may start although some are left: the schedule's reason, or somebody's word."""
        return self.ride_out(lambda: self.read_stop_reason(trials))

    def read_stop_reason(self, trials: Sequence[FrozenTrial]) -> str | None:
        """The same, without waiting for a storage that does not answer."""
        reason = self.schedule.stop_reason(trials)
        if reason is not None:
            return reason
        stopped = self.ledger.attributes().get(STOPPED)
        if stopped is not None and start_of(self.owner["token"]) in stopped["starts"]:
            return f"{stopped['by']} said so"
        return None

    def left_to_people(self, trials: Sequence[FrozenTrial]) -> str | None:
        """Why nothing is to be done although trials are left, where all that are left were paused by hand."""
        held = self.schedule.held(trials)
        if not held:
            return None
        numbers = " ".join(map(str, held))
        many = f"trial {numbers} is" if len(held) == 1 else f"trials {numbers} are"
        return f"{many} paused by hand: {typed_command('sweep', self.plan.name, 'resume', str(held[0]))}"

    def _asked(self, word: str, attributes: Mapping[str, Any]) -> list[Command]:
        mine = (one for one in commands_in(attributes) if one.start == self.owner["token"] and one.word == word)
        return [command for command in mine if command.status == PENDING]

    def _record_start(self, record: Mapping[str, Any]) -> None:
        with self.exclusively(), self.writing():
            self.ledger.record(f"{START}{self.owner['token']}", dict(record))

    def fail(self, trial: FrozenTrial, reason: str) -> None:
        """End a trial of a process that cannot do so itself."""
        self.set_facts(trial_id(trial), {"reason": reason, "ended": self.plan.clock.now()})
        self.end(optuna.Trial(self.optuna, trial_id(trial)), TrialState.FAIL)

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """While entered, no other process chooses or queues a trial."""
        with self._lock, exclusively(self.plan.location, self.storage), quietly():
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What is written inside reaches the storage together.

        Raises:
            Taken: A trial that was written to turns out to have been ended by another process.
        """
        try:
            with self._lock, together(self.storage):
                yield
        except UpdateFinishedTrialError as error:
            raise Taken from error

    @contextlib.contextmanager
    def between_writes(self) -> Iterator[None]:
        """While entered, no other thread of this process is writing to the study."""
        with self._lock:
            yield

    def ride_out(self, action: Callable[[], T], patience: float | None = None) -> T:
        """Do something with the storage, again and again while it does not answer.

        Args:
            patience: Seconds; None for as long as an outage may last.

        Raises:
            UserError: The storage has not answered for all that time.
        """
        # While the storage was away nobody's heartbeat could be seen: what was not seen counts for nothing.
        return ride_out(action, self.plan.location, PATIENCE if patience is None else patience, self.watch.forgive)

    def in_last_seconds(self, action: Callable[[], T]) -> T | None:
        """Do something that a process which is told to end has seconds for; None where they were not enough.

        A storage that was silent once is not waited for a second time.
        """
        if self._silent:
            return None
        done: list[T] = []

        def attempt() -> None:
            with contextlib.suppress(UserError):
                done.append(self.ride_out(action, _LAST_SECONDS))

        # Nobody waits longer for this thread, not even the interpreter's end.
        thread = threading.Thread(target=attempt, name="last seconds", daemon=True)
        thread.start()
        thread.join(_LAST_SECONDS)
        self._silent = not done
        return done[0] if done else None

    def _note_code(self) -> str | None:
        with self.exclusively():
            known: list[dict[str, Any]] = json.loads(self.optuna.user_attrs.get("code", "[]"))
            now = dict(self.plan.code)
            begun = self.schedule.begun(self.read_trials())
            if not known or known[-1]["code"] != now:
                # Nothing was begun since the last entry: no trial ran that code.
                known = [entry for entry in known if entry["trial"] < begun] + [{"trial": begun, "code": now}]
                self.optuna.set_user_attr("code", json.dumps(known))
            others = [entry["code"] for entry in known if entry["trial"] < begun and entry["code"] != now]
        if not others:
            return None
        before = ", ".join(dict.fromkeys(describe_code(code) for code in others))
        return f"the code is not the one that ran earlier trials: {before}; now {describe_code(now)}"

    def _open_exclusively(self) -> tuple[optuna.Study, bool]:
        with self.exclusively():
            return self._open()

    def _open(self) -> tuple[optuna.Study, bool]:
        plan = self.plan
        settings: dict[str, Any] = {
            "study_name": plan.name,
            "storage": self.storage,
            # Each trial has its own, with a view of the study (``Claims``): these draw and judge nothing.
            "pruner": NopPruner(),
            "sampler": RandomSampler(seed=plan.seed),
        }
        try:
            study = optuna.create_study(directions=directions(plan.objectives), **settings)
        except DuplicatedStudyError:
            study = optuna.load_study(**settings)
            if "format" in study.user_attrs:
                self._check_same(study)
                return study, True
        # The format is written last: a process killed before it leaves a study that the next one completes.
        # As Optuna's own pages call them.
        study.set_metric_names([item.metric for item in plan.objectives])
        study.set_user_attr("fingerprint", json.dumps(self._fingerprint()))
        study.set_user_attr("overrides", json.dumps(plan.recorded))
        study.set_user_attr("choices", json.dumps(plan.choices))
        if (order := new_order(plan)) is not None:
            study.set_user_attr("order", json.dumps(to_record(order, plan)))
        study.set_user_attr("format", FORMAT)
        return study, False

    def _fingerprint(self) -> dict[str, dict[str, str]]:
        return fingerprint(self.plan.parameters, self.plan.objectives, self.plan.setting, self.plan.judged_by)

    def _check_same(self, study: optuna.Study) -> None:
        plan, written = self.plan, study.user_attrs["format"]
        if written != FORMAT:
            raise UserError(
                f"study {plan.name!r} was written by another version (format {written}, ours is {FORMAT})",
                "update this program, or give another sweep.name",
            )
        given = json.loads(study.user_attrs.get("overrides", "null"))
        before = json.loads(study.user_attrs["fingerprint"])
        changes = differences(before, self._fingerprint(), given, plan.recorded, plan.environment)
        if changes:
            raise UserError(
                f"study {plan.name!r} was begun differently: {'; '.join(changes)}",
                "give sweep.name=<new name> for a study of its own, or put back what changed",
            )
        check_order(plan, json.loads(study.user_attrs.get("order", "null")))


def _recorded_order(study: optuna.Study) -> Order | None:
    return from_record(json.loads(study.user_attrs.get("order", "null")))


def queue_again(study: optuna.Study, numbers: Sequence[int], trials: Sequence[FrozenTrial]) -> None:
    """Queue failed trials to be tried again, those alone that are not queued yet."""
    for trial in standing(trials):
        if trial.number in numbers and trial.state is TrialState.FAIL:
            study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number, **_kept(trial)})


def directions(objectives: Sequence[Objective]) -> list[optuna.study.StudyDirection]:
    """Which way is better, as Optuna says it."""
    return [optuna.study.StudyDirection[item.direction.upper()] for item in objectives]


def _kept(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial that is tried again need not do once more: its finished runs, whose epochs are spent already."""
    runs = trial.user_attrs.get(RUNS)
    return {RUNS: [{**run, "epochs": 0} for run in runs]} if runs else {}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without Optuna's warnings that it may change, which a user can do nothing about, and without its notes."""
    before = optuna.logging.get_verbosity()
    talks = before < optuna.logging.WARNING
    # Only where it changes anything: it makes all of Python's logging forget who is silent.
    if talks:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="optuna")
            yield
    finally:
        if talks:
            optuna.logging.set_verbosity(before)
