"""A study opened by its name alone, without its plan, from any terminal: read, and commanded.

Reading changes nothing. A command is entered while the study is held exclusively, so that of two people at once none
loses anything: what nobody works on is done at once, what somebody runs is left to its owner, who acts on it after its
epoch. Knows Optuna.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from deepfake.compat import trial_id
from deepfake.errors import UserError, nearest
from deepfake.sweeping.callbacks import Objective
from deepfake.sweeping.commands import (
    ADD,
    DONE,
    PAUSE,
    PENDING,
    REPLACED,
    RESUME,
    RETRY,
    STOP,
    STOPPED,
    UNDERSTANDS,
    WORKERS,
    Command,
    Ledger,
    start_of,
)
from deepfake.sweeping.facts import (
    COMMAND,
    HELD,
    LEAVE,
    PAUSED,
    WITHDRAWN,
    hold_facts,
    is_held,
    is_paused,
    stop_text,
)
from deepfake.sweeping.heartbeat import Watch, host_identity, host_of, process_of
from deepfake.sweeping.points import LIKE, typed_point
from deepfake.sweeping.schedule import standing, superseded, to_retry
from deepfake.sweeping.search_space import Parameter, Value, to_overrides
from deepfake.sweeping.storage import (
    Location,
    exclusively,
    open_existing,
    open_storage,
    together,
)
from deepfake.sweeping.study import FORMAT, queue_again, quietly

_MOST = 1024
_STATES = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "was pruned", TrialState.FAIL: "failed"}


class Control:
    """A study and the commands to it.

    Args:
        location: The storage.
        name: The study's; the only one of a file is taken whatever it is called.
        again: What goes on with it, for what is said to the user.

    Attributes:
        optuna: Optuna's study.
        name: Its name.
        parameters: Its space.
        objectives: What it looks for.

    Raises:
        UserError: There is no such study, or it was written by another version.
    """

    def __init__(self, location: Location, name: str, again: str = "the same command") -> None:
        self.location, self._again = location, again
        self.storage: BaseStorage = open_existing(location)
        self.watch = Watch()
        self._host = host_identity()
        with quietly():
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            self.name = _existing(name, self.storage, location)
            self.optuna = optuna.load_study(
                study_name=self.name, storage=self.storage, sampler=RandomSampler(), pruner=NopPruner()
            )
        attributes = self.optuna.user_attrs
        if attributes.get("format") != FORMAT:
            written = attributes.get("format")
            raise UserError(
                f"study {self.name!r} was written by another version (format {written}, ours is {FORMAT})",
                "update this program",
            )
        self.ledger = Ledger(self.optuna, self.storage)
        recorded = json.loads(attributes["fingerprint"])
        self.objectives = [Objective(metric, direction) for metric, direction in recorded["objective"].items()]
        known: dict[str, Parameter] = {}
        for key, text in recorded["space"].items():
            known[key] = Parameter.described(key, text, known)
        self.parameters = list(known.values())

    def trials(self) -> list[FrozenTrial]:
        """All that was begun or is queued, in order."""
        return self.optuna.get_trials(deepcopy=False)

    def is_alive(self, owner: Mapping[str, Any] | None, beat: object) -> bool:
        """Whether an owner works, as far as can be told: one on another machine by its latest sign of life."""
        if owner is None or self.watch.is_dead(owner, beat):
            return False
        if owner["host"] == self._host:
            return True
        sign = beat if isinstance(beat, (int, float)) and beat > _SINCE_1970 else owner.get("since")
        return sign is None or time.time() - float(sign) < _SILENT * float(owner["heartbeat"])

    def working(self) -> dict[str, dict[str, Any]]:
        """The starts that work on the study, by their tokens, as far as can be told."""
        starts = self.ledger.starts()
        trials = [one for one in self.trials() if one.state is TrialState.RUNNING and one.user_attrs.get("owner")]
        busy = {
            start_of(str(one.user_attrs["owner"]["token"]))
            for one in trials
            if self.is_alive(one.user_attrs["owner"], one.user_attrs.get("beat"))
        }
        found = {}
        for token, start in starts.items():
            here = start["host"] == self._host
            if "ended" not in start and (not self.watch.is_dead(start, None) if here else token in busy):
                found[token] = start
        return found

    # ---- commands to one trial

    def pause(self, number: int) -> str:
        """Let a trial wait, from its next epoch on, until it is resumed; returns what to say of it.

        Raises:
            UserError: There is no such trial, it is over, waits already, is to be stopped, or runs in an older version.
        """
        with self._commanding() as trials:
            trial = self._open(number, trials, PAUSE)
            if trial.state is TrialState.WAITING:
                raise UserError(
                    f"trial {number} has not begun", f"stop {number} takes it out of the queue; what runs can be paused"
                )
            if is_held(trial):
                raise UserError(
                    f"trial {number} is paused already, by {trial.user_attrs[HELD]}", f"resume {number} lets it go on"
                )
            asked = trial.user_attrs.get(COMMAND)
            if asked is not None:
                raise UserError(
                    f"trial {number} is to {_meant(asked['word'])} already, as {asked['by']} said",
                    "that is done after its epoch",
                )
            if self._runs(trial):
                return self._tell_owner(PAUSE, trial, trials, "is paused after its epoch")
            command = self.ledger.enter(PAUSE, _begun(trials), trial=number)
            self._set(trial, hold_facts(command.by, time.time()))
            self.ledger.answer(command.number, DONE)
            return f"trial {number} is paused: nobody runs it; resume {number} lets it go on"

    def resume(self, number: int) -> str:
        """Let a trial go on that was paused by hand; returns what to say of it.

        Raises:
            UserError: There is no such trial, it is over, or was not paused by hand.
        """
        with self._commanding() as trials:
            trial = self._open(number, trials, RESUME)
            asked = trial.user_attrs.get(COMMAND)
            if asked is not None and asked["word"] == PAUSE:
                command = self.ledger.enter(RESUME, _begun(trials), trial=number)
                self._set(trial, {COMMAND: None})
                self.ledger.answer(asked["number"], REPLACED, f"by command {command.number}")
                self.ledger.answer(command.number, DONE, "before it was paused")
                return f"trial {number} goes on: it was not paused yet"
            if asked is not None:
                raise UserError(
                    f"trial {number} is to be stopped, as {asked['by']} said",
                    f"add {LIKE}={number} tries its point anew",
                )
            if not is_held(trial):
                raise self._not_held(trial)
            command = self.ledger.enter(RESUME, _begun(trials), trial=number)
            self._set(trial, {HELD: None})
            self.ledger.answer(command.number, DONE)
            if trial.user_attrs.get(PAUSED) is not None:
                return f"trial {number} waits at its rung again, until it is among the best there"
            return f"trial {number} goes on: {self._who_takes_it()}"

    def stop(self, number: int) -> str:
        """End a trial with its next epoch, as one that was pruned; returns what to say of it.

        Raises:
            UserError: There is no such trial, it is over, is to be stopped already, or runs in an older version.
        """
        with self._commanding() as trials:
            trial = self._open(number, trials, STOP)
            asked = trial.user_attrs.get(COMMAND)
            if asked is not None and asked["word"] == STOP:
                raise UserError(f"trial {number} is to be stopped already, as {asked['by']} said", "wait for its epoch")
            if self._runs(trial):
                before = "" if asked is None else f" instead of being paused, as {asked['by']} said"
                said = self._tell_owner(STOP, trial, trials, f"is stopped after its epoch{before}")
                if asked is not None:
                    self.ledger.answer(asked["number"], REPLACED, "by a later stop")
                return said
            command = self.ledger.enter(STOP, _begun(trials), trial=number)
            if asked is not None:
                self.ledger.answer(asked["number"], REPLACED, f"by command {command.number}")
            self._end(trial, command)
            self.ledger.answer(command.number, DONE)
            return f"trial {number} is stopped" + (": it had not begun" if trial.state is TrialState.WAITING else "")

    # ---- commands to the study

    def retry(self, which: str) -> str:
        """Queue failed trials to be tried again: ``failed`` for all, or a number; returns what to say of it.

        Raises:
            UserError: There is no such trial, or it has not failed.
        """
        if which != "failed" and not which.isdecimal():
            raise UserError(f"retry {which} names no trial", "write retry failed, or retry and a trial's number")
        with self._commanding() as trials:
            if which != "failed" and int(which) >= len(trials):
                raise _unknown(int(which), trials)
            numbers = to_retry(which if which == "failed" else int(which), trials)
            again = superseded(trials)
            numbers = [number for number in numbers if number not in again]
            if not numbers:
                raise UserError("no trial of the study has failed", "there is nothing to try again")
            if trials[numbers[0]].state is not TrialState.FAIL:
                raise UserError(f"trial {numbers[0]}, which tries it again, has not failed", "wait for its end")
            command = self.ledger.enter(RETRY, _begun(trials), value=which)
            queue_again(self.optuna, numbers, trials)
            self.ledger.answer(command.number, DONE)
            listed = ", ".join(map(str, numbers))
            return f"tried again: trial{'s' if len(numbers) > 1 else ''} {listed}; {self._who_takes_it()}"

    def add(self, words: Sequence[str]) -> str:
        """Queue a point to be tried next; returns what to say of it.

        Args:
            words: ``key=value`` each; ``like=3`` takes the rest from trial 3. The sampler draws what is left out.

        Raises:
            UserError: The point is not in the space, or was tried.
        """
        with self._commanding() as trials:
            point = typed_point(words, self.parameters, lambda text: self._cloned(text, trials))
            self._refuse_known(point, trials)
            command = self.ledger.enter(ADD, _begun(trials), value=" ".join(to_overrides(point)))
            number = len(trials)
            self.optuna.enqueue_trial(point, user_attrs={"added": {"by": command.by, "number": command.number}})
            self.ledger.answer(command.number, DONE, f"as trial {number}")
            drawn = [item.key for item in self.parameters if item.key not in point and not item.when]
            rest = f", the sampler draws {', '.join(drawn)}" if drawn else ""
            return f"trial {number} is to be {' '.join(to_overrides(point))}{rest}; {self._who_takes_it(adding=True)}"

    def workers(self, count: int) -> str:
        """Let the pool that runs the study have so many workers; returns what to say of it.

        Raises:
            UserError: No pool runs the study, or it is not clear which is meant.
        """
        if not 1 <= count <= _MOST:
            raise UserError(
                f"workers {count} is no number of workers", f"from 1 to {_MOST}; stop ends the work on the whole study"
            )
        with self._commanding() as trials:
            token, start = self._pool()
            if int(start["workers"]) == count and not self._pending(WORKERS, token):
                raise UserError(
                    f"{count} worker{'s run' if count > 1 else ' runs'} the study already", "nothing is to be done"
                )
            command = self.ledger.enter(WORKERS, _begun(trials), start=token, value=count)
            fewer = int(start["workers"]) > count
            how = "those that are too many end after their epoch" if fewer else "the new ones begin at once"
            return (
                f"{count} workers instead of {start['workers']} on {host_of(start)} (command {command.number}): {how}"
            )

    def stop_study(self) -> str:
        """Let all who work on the study finish their epoch and end; returns what to say of it.

        Raises:
            UserError: Nobody works on it, or all are stopping already.
        """
        with self._commanding() as trials:
            working = self.working()
            told = set((self.ledger.attributes().get(STOPPED) or {}).get("starts", ()))
            running = [trial for trial in trials if trial.state is TrialState.RUNNING and self._runs(trial)]
            old = [trial for trial in running if UNDERSTANDS not in trial.user_attrs["owner"]]
            if not working and not running:
                raise UserError(f"nobody works on study {self.name}", f"{self._again} goes on with it")
            if working and told >= set(working) and not old:
                raise UserError(f"study {self.name} is stopping already", "wait for the epochs of what runs")
            command = self.ledger.enter(STOP, _begun(trials))
            self.ledger.record(
                STOPPED, {"starts": sorted({*told, *self.ledger.starts()}), "by": command.by, "number": command.number}
            )
            for trial in running:
                self._set(trial, {LEAVE: command.number})
            self.ledger.answer(command.number, DONE)
            many = f"{len(running)} running trial{'s' if len(running) != 1 else ''}"
            said = f"study {self.name} is stopped: {many} finish the epoch and are let go of; {self._again} goes on"
            ignoring = ", ".join(f"trial {trial.number} ({process_of(trial.user_attrs['owner'])})" for trial in old)
            return said + (f". Workers of an older version ignore that, and go on: {ignoring}" if old else "")

    # ----

    @contextlib.contextmanager
    def _commanding(self) -> Iterator[list[FrozenTrial]]:
        """Hold the study to enter a command; gives all its trials. What is written inside is written together."""
        # Now that something is written: what a killed process left of a line goes first.
        storage = open_storage(self.location)
        self.storage = storage
        with quietly():
            self.optuna = optuna.load_study(
                study_name=self.name, storage=storage, sampler=RandomSampler(), pruner=NopPruner()
            )
            self.ledger = Ledger(self.optuna, storage)
            with exclusively(self.location, storage), together(storage):
                yield self.trials()

    def _open(self, number: int, trials: Sequence[FrozenTrial], word: str) -> FrozenTrial:
        if not 0 <= number < len(trials):
            raise _unknown(number, trials)
        trial = trials[number]
        if trial.state.is_finished():
            again = next((one.number for one in trials if number in superseded([one])), None)
            later = "" if again is None else f"; it is tried again as trial {again}"
            raise UserError(
                f"trial {number} is over: it {_was(trial)}{later}",
                f"{word} is for trials that are not; add {LIKE}={number} tries a point like it",
            )
        return trial

    def _runs(self, trial: FrozenTrial) -> bool:
        """Whether somebody runs a trial, or may: of another machine's owner nobody here can be sure."""
        owner = trial.user_attrs.get("owner")
        return owner is not None and not self.watch.is_dead(owner, trial.user_attrs.get("beat"))

    def _tell_owner(self, word: str, trial: FrozenTrial, trials: Sequence[FrozenTrial], said: str) -> str:
        owner = trial.user_attrs["owner"]
        if UNDERSTANDS not in owner:
            raise UserError(
                f"trial {trial.number} runs in {process_of(owner)}, of an older version, which knows no commands",
                "wait for its end, or interrupt that process and go on with this version",
            )
        command = self.ledger.enter(word, _begun(trials), trial=trial.number)
        self._set(trial, {COMMAND: {"word": word, "number": command.number, "by": command.by}})
        return f"trial {trial.number} {said} (command {command.number}, to {process_of(owner)})"

    def _set(self, trial: FrozenTrial, facts: Mapping[str, Any]) -> None:
        for key, value in facts.items():
            self.storage.set_trial_user_attr(trial_id(trial), key, value)

    def _end(self, trial: FrozenTrial, command: Command) -> None:
        """End a trial that nobody runs as one that was pruned."""
        key = trial_id(trial)
        reason = stop_text(trial, command.by, self.objectives)
        if trial.state is TrialState.WAITING:
            reason = f"stopped by {command.by} before it began"
            self._set(trial, {WITHDRAWN: command.by})
            self.storage.set_trial_state_values(key, TrialState.RUNNING)
            for item in self.parameters:
                if item.key in (point := _queued(trial)) and item.applies(point):
                    inner = item.distribution.to_internal_repr(point[item.key])
                    self.storage.set_trial_param(key, item.key, inner, item.distribution)
        self._set(trial, {"reason": reason, "ended": time.time(), COMMAND: None, HELD: None})
        self.optuna.tell(optuna.Trial(self.optuna, key), state=TrialState.PRUNED)

    def _not_held(self, trial: FrozenTrial) -> UserError:
        number = trial.number
        if trial.state is TrialState.WAITING:
            return UserError(f"trial {number} is not paused: it has not begun", "it is tried when its turn comes")
        if is_paused(trial):
            return UserError(
                f"trial {number} was paused by nobody: it waits at rung {trial.user_attrs[PAUSED]}",
                "it goes on by itself once it is among the best there",
            )
        return UserError(f"trial {number} is not paused: it runs, or goes on next", f"pause {number} pauses it")

    def _who_takes_it(self, adding: bool = False) -> str:
        starts = list(self.ledger.starts().values())
        left = _left(starts[-1], self.trials()) if starts else None
        if adding and left is not None and left < 0:
            total = int(starts[-1]["total"]) - left
            return f"the study has room for no more trials: {self._again} with sweep.n_trials={total} tries it"
        working = self.working() or any(one.state is TrialState.RUNNING and self._runs(one) for one in self.trials())
        return "a worker takes it up next" if working else f"nobody works on it now: {self._again} goes on with it"

    def _pool(self) -> tuple[str, dict[str, Any]]:
        working = self.working()
        pools = {token: start for token, start in working.items() if start["how"] == "pool"}
        if len(pools) > 1:
            pools = {token: start for token, start in pools.items() if start["host"] == self._host} or pools
        if len(pools) == 1:
            return next(iter(pools.items()))
        if pools:
            listed = ", ".join(process_of(start) for start in pools.values())
            raise UserError(
                f"several terminals have workers on study {self.name}: {listed}",
                "end one of them by Ctrl-C; or type this on the machine of the one that is meant",
            )
        if any(start["how"] == "launched" for start in working.values()):
            raise UserError(
                "its workers are jobs of a launcher, whose number is fixed once they are queued",
                "for more, give the same command in another terminal: they work side by side; for fewer, stop it "
                "and go on with another sweep.n_jobs",
            )
        if working:
            terminal = process_of(next(iter(working.values())))
            raise UserError(
                f"the trials run one after another in a terminal ({terminal}), which has no workers",
                "for more, give the same command with sweep.n_jobs in another terminal: they work side by side",
            )
        old = [one.user_attrs["owner"] for one in self.trials() if one.state is TrialState.RUNNING and self._runs(one)]
        if old:
            raise UserError(
                f"its trials run in processes of an older version, which know no commands: {process_of(old[0])}",
                "wait for their end, or interrupt them and go on with this version",
            )
        raise UserError(f"nobody works on study {self.name}", f"{self._again} with sweep.n_jobs goes on with it")

    def _pending(self, word: str, start: str) -> list[Command]:
        found = self.ledger.commands()
        return [one for one in found if one.status == PENDING and one.word == word and one.start == start]

    def _cloned(self, text: str, trials: Sequence[FrozenTrial]) -> dict[str, Value]:
        if not text.isdecimal() or int(text) >= len(trials):
            raise _unknown(text, trials)
        trial = trials[int(text)]
        return dict(trial.params) or _queued(trial)

    def _refuse_known(self, point: Mapping[str, Value], trials: Sequence[FrozenTrial]) -> None:
        starts = list(self.ledger.starts().values())
        if starts and starts[-1].get("repeat"):
            return
        drawn = any(item.applies(point) and item.key not in point for item in self.parameters)
        for trial in standing(trials):
            same = (trial.params or _queued(trial)) == dict(point)
            if drawn or not same or trial.state is TrialState.FAIL or WITHDRAWN in trial.user_attrs:
                continue
            raise UserError(
                f"trial {trial.number} is that point: it {_was(trial)}",
                "a point comes out the same again: change a value; where it does not, sweep.repeat=true",
            )


#: Signs of life from before that are counted by another clock.
_SINCE_1970 = 1e9
#: So many heartbeats without a sign make an owner on another machine look dead.
_SILENT = 4


def _existing(name: str, storage: BaseStorage, location: Location) -> str:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        names = optuna.get_all_study_names(storage)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError):
        names = []
    if name in names:
        return name
    if len(names) == 1 and (location.journal is not None or location.lock.name != "study.claim"):
        # One whose folder was named by hand.
        return names[0]
    raise UserError(f"{location} holds no study {name!r}", nearest(name, names))


def _unknown(number: object, trials: Sequence[FrozenTrial]) -> UserError:
    known = f"they are numbered from 0 to {len(trials) - 1}" if trials else "it has none yet"
    return UserError(f"the study has no trial {number}", known)


def _was(trial: FrozenTrial) -> str:
    if trial.state is TrialState.WAITING:
        return "waits for its turn"
    if not trial.state.is_finished():
        return "is paused" if is_paused(trial) else "runs"
    reason = trial.user_attrs.get("reason")
    values = ", ".join(f"{value:.4g}" for value in trial.values or [])
    return _STATES[trial.state] + (f" ({reason})" if reason else f" with {values}" if values else "")


def _meant(word: str) -> str:
    return "be paused" if word == PAUSE else "be stopped"


def _queued(trial: FrozenTrial) -> dict[str, Value]:
    """The point that a trial was queued with."""
    return dict(trial.system_attrs.get("fixed_params") or {})


def _begun(trials: Sequence[FrozenTrial]) -> int:
    return sum(trial.state is not TrialState.WAITING for trial in trials)


def _left(start: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> int | None:
    """How many trials more than are queued a start has room for; None without limit."""
    if start.get("total") is None:
        return None
    return int(start["total"]) - (len(trials) - len(superseded(trials)))
