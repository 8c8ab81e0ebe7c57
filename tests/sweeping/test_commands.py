"""Random commands from two terminals while owners are killed: nothing is lost, done twice, or left undecided."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from deepfake.errors import UserError
from deepfake.sweeping.agent import RunningTrial
from deepfake.sweeping.callbacks import FAILED, PAUSED, PRUNED, Job
from deepfake.sweeping.claims import Claim, Claims
from deepfake.sweeping.commands import DONE, PENDING, REFUSED, REPLACED, Ledger, commands_in, start_of
from deepfake.sweeping.control import Control
from deepfake.sweeping.facts import is_held, is_paused, steps_of
from deepfake.sweeping.heartbeat import Watch
from deepfake.sweeping.promotion import Promotion
from deepfake.sweeping.status import status_of
from deepfake.sweeping.storage import locate
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.trial import LetGo, Paused, Pruned
from tests.sweeping import toy
from tests.sweeping.toy import completed, opened

EPOCHS = 4


class Worker:
    """An owner that works an epoch at a time, and may be killed between any two things that it does."""

    def __init__(self, plan: StudyPlan, saved: dict[int, int], ran: dict[int, list[int]]) -> None:
        self.claims: Claims = opened(plan)
        self.claims.study.sign("here", 1)
        self.token = str(self.claims.study.owner["token"])
        self._saved, self._ran = saved, ran
        self._claim: Claim | None = None
        self._running: RunningTrial | None = None
        self._epoch = 0

    def step(self, draw: random.Random) -> bool:
        """Do one thing; whether there was any."""
        if self._claim is None:
            self._claim = self.claims.claim()
            if self._claim is None:
                return False
            self._running = RunningTrial(self.claims, self._claim)
            self._epoch = self._saved.get(self._claim.number, 0) if self._claim.attempt else 0
            return True
        assert self._running is not None
        claim, number = self._claim, self._claim.number
        if self._epoch == EPOCHS:
            failed = Job(number, claim.overrides, FAILED, reason="asked to fail")
            self.claims.finish(claim, failed if draw.random() < 0.1 else completed(claim, draw.random()))
            self._claim = None
            return True
        self._ran.setdefault(number, []).append(self._epoch)
        ended: Exception | None = None
        try:
            self._running.report(self._epoch, {"m": draw.random()}, more=self._epoch + 1 < EPOCHS)
        except Pruned as pruned:
            ended = pruned
        except Paused as paused:
            ended = paused
        if draw.random() < 0.1:
            raise KilledError
        self._epoch += 1
        self._saved[number] = self._epoch
        if ended is not None and draw.random() < 0.2:
            raise KilledError
        if isinstance(ended, LetGo):
            self.claims.let_go(claim)
        elif isinstance(ended, Paused):
            self.claims.pause(claim, Job(number, claim.overrides, PAUSED))
        elif isinstance(ended, Pruned):
            self.claims.finish(claim, Job(number, claim.overrides, PRUNED))
        if ended is not None:
            self._claim = None
        return True


class KilledError(Exception):
    """The worker is gone."""


def someone_types(plan: StudyPlan, draw: random.Random, trials: int) -> str:
    """Give a random command; its word where it was accepted."""
    study = Control(plan.location, plan.name)
    number = draw.randrange(trials + 2)
    calls: list[tuple[str, Any]] = [
        ("pause", lambda: study.pause(number)),
        ("resume", lambda: study.resume(number)),
        ("stop", lambda: study.stop(number)),
        ("add", lambda: study.add([f"x={draw.random():.3f}"])),
        ("add", lambda: study.add([f"like={number}"])),
        ("workers", lambda: study.workers(draw.randint(1, 4))),
        ("retry", lambda: study.retry("failed")),
        ("stop", study.stop_study),
    ]
    word, call = draw.choices(calls, weights=[8, 8, 3, 2, 1, 1, 1, 0.5])[0]
    try:
        call()
    except UserError:
        return ""
    return word


def run_to_the_end(
    plan: StudyPlan, seed: int, monkeypatch: pytest.MonkeyPatch, commands: int
) -> tuple[Counter[str], dict[int, list[int]], int]:
    """A study that people command as they please, until nothing of it is left.

    Returns:
        The words that were accepted, the epochs that were run of each trial, and how many workers were killed.
    """
    draw = random.Random(seed)
    dead: set[str] = set()
    monkeypatch.setattr(Watch, "is_dead", lambda self, owner, beat: owner is None or owner["token"] in dead)
    saved: dict[int, int] = {}
    ran: dict[int, list[int]] = {}
    told: Counter[str] = Counter()
    workers = [Worker(plan, saved, ran) for _ in range(3)]
    killed = given = idle = 0
    for _ in range(20_000):
        trials = workers[0].claims.study.trials()
        if given < commands and draw.random() < 0.4:
            given += 1
            told[someone_types(plan, draw, len(trials))] += 1
        place = draw.randrange(len(workers))
        try:
            busy = workers[place].step(draw)
        except KilledError:
            killed += 1
            busy = False
            dead.add(workers[place].token)
            workers[place] = Worker(plan, saved, ran)
        idle = 0 if busy else idle + 1
        if given < commands or idle < 20:
            continue
        trials = workers[place].claims.study.trials()
        for trial in trials:
            if is_held(trial):
                Control(plan.location, plan.name).resume(trial.number)
                told["resume"] += 1
        if all(trial.state.is_finished() or (is_paused(trial) and not is_held(trial)) for trial in trials):
            return told, ran, killed
        # Whoever was stopped begins again, with room for what was added.
        plan = replace(plan, total=max(plan.total or 0, len(trials)))
        dead |= {worker.token for worker in workers}
        workers, idle = [Worker(plan, saved, ran) for _ in workers], 0
    raise AssertionError("the study never ended")


@pytest.mark.parametrize("promotes", [False, True], ids=["plain", "promoting"])
@pytest.mark.parametrize("storage", ["journal", "sqlite"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
def test_nothing_is_lost_done_twice_or_left_undecided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, storage: str, promotes: bool
) -> None:
    more: dict[str, Any] = {"pruner": {"name": "promote", "min_resource": 1, "reduction_factor": 2}}
    more |= {"promotion": Promotion(1, 2)}
    plan = toy.make_plan(
        tmp_path, total=30, retries=100, location=locate(storage, tmp_path), **(more if promotes else {})
    )
    told, ran, killed = run_to_the_end(plan, seed, monkeypatch, commands=200)
    assert killed >= 5
    study = Control(plan.location, plan.name)
    entered = study.ledger.commands()
    # Everything that was accepted is there, in the order of its numbers, and decided.
    assert [command.number for command in entered] == list(range(1, len(entered) + 1))
    assert Counter(command.word for command in entered) == Counter({word: n for word, n in told.items() if word})
    assert {command.status for command in status_of(study).commands} <= {DONE, REFUSED, REPLACED}
    for trial in study.trials():
        done = ran.get(trial.number, [])
        assert trial.state.is_finished() or (promotes and is_paused(trial) and not is_held(trial))
        # An epoch is run again only where its run was killed before it was saved.
        assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(done))
        assert max(done, default=-1) + 1 == steps_of(trial)
        if trial.state is TrialState.COMPLETE:
            assert sorted(set(done)) == list(range(EPOCHS))
        stops = [one for one in entered if one.trial == trial.number and one.word == "stop" and one.status == DONE]
        if not promotes:
            assert (trial.state is TrialState.PRUNED) == bool(stops)
        assert str(trial.user_attrs.get("reason", "")).startswith("stopped by") == bool(stops)


def test_a_start_is_known_by_the_tokens_of_its_workers() -> None:
    assert start_of("abc-def") == start_of("abc") == "abc"


def test_commands_are_read_in_order_with_what_became_of_them(tmp_path: Path) -> None:
    claims = opened(toy.make_plan(tmp_path))
    ledger: Ledger = claims.study.ledger
    for number in range(12):
        assert ledger.enter("pause", 0, trial=number).number == number + 1
    ledger.answer(3, DONE, "at once")
    found = commands_in(ledger.attributes())
    assert [one.number for one in found] == list(range(1, 13))
    assert (found[2].status, found[2].why, found[3].status) == (DONE, "at once", PENDING)
    assert str(found[2]) == "pause 2"
