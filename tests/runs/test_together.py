"""Jobs of one process in turns: who runs when, what ends them, and what each has for itself."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepfake.errors import Interrupted
from deepfake.runs.together import company, run_together
from deepfake.training.features import fused

SAID: list[str] = []
#: Whose turn began and ended, in order.
TURNS: list[str] = []


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Which stretches were trained at once; nothing is computed."""
    found: list[list[str]] = []

    def train(stretches: Sequence[Any], stop: Callable[[], bool]) -> None:
        found.append([stretch.name for stretch in stretches])
        if any(stretch.name == "breaks" for stretch in stretches):
            raise ValueError("it broke")

    SAID.clear()
    TURNS.clear()
    monkeypatch.setattr(fused, "train_together", train)
    return found


@dataclass
class Job:
    """Trains so many epochs."""

    name: str
    epochs: int = 2
    key: str = "shape"
    alone: bool = False
    work: Callable[[int], None] = lambda epoch: None
    stops: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        """Say what becomes of it."""
        SAID.append(f"{self.name} begins")
        try:
            others = company()
            if others is not None:
                with others.interruption() as interruption:
                    for epoch in range(self.epochs):
                        others.train(SimpleNamespace(name=self.name, key=self.key))  # type: ignore[arg-type]
                        if interruption.asked():
                            raise Interrupted("saved")
                        self.work(epoch)
        except BaseException as error:
            SAID.append(f"{self.name}: {type(error).__name__}")
            if not isinstance(error, ValueError):
                raise
            return
        SAID.append(f"{self.name} ends")

    def stopped(self) -> BaseException | None:
        """What the test says."""
        return self.stops[0] if self.stops else None

    def begin_turn(self, among: int = 1) -> None:
        """It is its turn."""
        TURNS.append(self.name if among == 1 else f"{self.name} of {among}")

    def end_turn(self) -> None:
        """Its turn is over."""
        TURNS.append(f"{self.name} waits")


def run(jobs: Sequence[Job], most: int = 4) -> None:
    waiting: Iterator[Job] = iter(jobs)
    run_together(lambda: next(waiting, None), most)


def test_those_of_one_shape_are_trained_at_once_and_no_more_than_so_many(trained: list[list[str]]) -> None:
    run([Job("a"), Job("b", key="other"), Job("c"), Job("d")], most=3)
    assert trained == [["a", "c"], ["b"], ["a", "c"], ["b"], ["d"], ["d"]]
    assert company() is None


def test_one_that_ends_makes_room_for_the_next(trained: list[list[str]]) -> None:
    run([Job("a", epochs=1), Job("b", epochs=3), Job("c", epochs=1)], most=2)
    assert trained == [["a", "b"], ["b", "c"], ["b"]]


@pytest.mark.parametrize("job", [Job("a", epochs=0), Job("a", alone=True)], ids=["never trains", "alone"])
def test_one_that_is_not_trained_with_others_ends_before_the_next_begins(job: Job) -> None:
    run([job, Job("b", epochs=1)])
    assert SAID == ["a begins", "a ends", "b begins", "b ends"]


def test_what_one_ends_in_interrupts_the_others_and_is_raised() -> None:
    def lose(epoch: int) -> None:
        raise SystemExit(75)

    with pytest.raises(SystemExit):
        run([Job("a"), Job("b", work=lose), Job("c")])
    assert SAID[3:] == ["b: SystemExit", "a: KeyboardInterrupt", "c: KeyboardInterrupt"]


def test_what_breaks_while_several_are_trained_is_theirs_alone() -> None:
    run([Job("breaks"), Job("b", epochs=1), Job("c", key="other", epochs=1)])
    assert SAID[3:] == ["breaks: ValueError", "b: ValueError", "c ends"]


def test_one_that_is_stopped_from_outside_leaves() -> None:
    stopped = Job("a", epochs=9)
    stopped.work = lambda epoch: stopped.stops.append(ValueError("overdue"))
    run([stopped, Job("b", epochs=3)])
    assert SAID[2:] == ["a: ValueError", "b ends"]


def test_each_is_told_when_it_is_its_turn() -> None:
    run([Job("a", epochs=1), Job("b", epochs=1)])
    begin, trained, end = ["a", "a waits", "b", "b waits"], ["a of 2", "b of 2", "a waits", "b waits"], ["a", "a waits"]
    assert [*begin, *trained, *end, "b", "b waits"] == TURNS


def test_one_that_is_stopped_while_another_runs_leaves_and_the_other_notices_nothing() -> None:
    stopped = Job("a", epochs=9)
    run([stopped, Job("b", epochs=3, work=lambda epoch: stopped.stops.append(ValueError("overdue")))])
    assert SAID[2:] == ["a: ValueError", "b ends"]


def test_sigterm_lets_all_that_train_save_what_they_have() -> None:
    def end(epoch: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run([Job("a", epochs=9, work=end), Job("b", epochs=9)])
    assert SAID[2:] == ["b: Interrupted", "a: Interrupted"]


def test_each_has_random_states_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[float]] = {}

    def draw(name: str, seed: int) -> Callable[[int], None]:
        def once(epoch: int) -> None:
            if epoch == 0:
                random.seed(seed)
                torch.manual_seed(seed)
            drawn.setdefault(name, []).append(random.random() + float(torch.rand(())))

        return once

    run([Job("a", 3, work=draw("a", 1)), Job("b", 3, work=draw("b", 2)), Job("c", 3, work=draw("c", 1))])
    assert drawn["a"] == drawn["c"] != drawn["b"]
