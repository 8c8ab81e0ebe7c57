"""The trial that a job is, as the job sees it: it reports metrics, and is pruned or stopped by exceptions.

Imports no Optuna; outside a study there is no trial.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Pruned(Exception):  # noqa: N818 - an outcome, not an error
    """The study has seen enough of this trial.

    Raised by :meth:`TrialHandle.report`; training lets it pass.
    """

    epoch: int
    metrics: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"pruned after epoch {self.epoch}"


@dataclass
class Paused(Exception):  # noqa: N818 - an outcome, not an error
    """The trial waits, at a rung until it is among the best there, or until somebody resumes it: it may be gone on with
    later, or never.

    Raised by :meth:`TrialHandle.report`; the job lets it pass once all is saved that it needs to go on.
    """

    epoch: int
    metrics: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"paused after epoch {self.epoch}"


class LetGo(Paused):
    """The process is to leave the trial as it is, and whoever comes next goes on with it; as :class:`Paused` else."""

    def __str__(self) -> str:
        return f"let go of after epoch {self.epoch}"


class Stopped(BaseException):
    """This process is to stop working on the trial at once. No job need catch it, and none should."""


class Taken(Stopped):
    """Another process has taken the trial up, having seen no sign of life of this one: nothing more may be written.

    Raised by :meth:`TrialHandle.report` and :meth:`TrialHandle.hold`, or wherever the job is.
    """

    def __str__(self) -> str:
        return "another process has taken the trial up"


class Refused(Stopped):
    """What this process works on is not what the study's other trials did; raised by :meth:`TrialHandle.agree`."""

    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.topic = topic

    def __str__(self) -> str:
        return f"{self.topic} is not what the study's other trials had"


class Overdue(Stopped):
    """The trial has taken longer than it may; raised wherever the job is."""


class TrialHandle(Protocol):
    """The trial this job is."""

    @property
    def study(self) -> str:
        """The study's name."""

    @property
    def number(self) -> int:
        """The trial's number within its study, from 0."""

    @property
    def attempt(self) -> int:
        """0, or how often it was begun before, by a process that died or until it was paused: resume where one can."""

    @property
    def threads(self) -> int | None:
        """With how many threads this trial is to compute, so that it comes out as it would elsewhere; None: any."""

    @property
    def repeat(self) -> int | None:
        """Which of its point's runs this is, from 0; None where each point is run once."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What :meth:`identify` was given, also by an earlier attempt."""

    def identify(self, **facts: str) -> None:
        """Record with the trial where its run is (``run_id``, ``run_dir``, ``name``), should it never return."""

    def report(self, epoch: int, metrics: Mapping[str, float], more: bool | None = None) -> None:
        """Report an epoch to the study.

        Args:
            epoch: From 0, each once.
            metrics: Those of this epoch, among them the objective; without it nothing can be pruned.
            more: Whether epochs are to come, from a job that goes on from here when it is begun again; it is paused
                only where there are. None from a job that would begin with its first epoch.

        Raises:
            Pruned: The pruner has seen enough.
            Paused: The trial waits here.
            UserError: The study pauses its trials, and the job does not say that it can go on.
            Taken: The trial is another process's by now.
        """

    def agree(self, topic: str, fact: str) -> None:
        """Compare what this trial works on with what the study's other trials did.

        Args:
            topic: What it is, such as ``the data of dataset=demo``.
            fact: A digest of it, or a word for it.

        Raises:
            Refused: Another trial reported another fact of this topic.
        """

    def hold(self) -> None:
        """Before something is written in the trial's name: make sure that it is still this process's.

        Raises:
            Taken: It is not.
        """


_current: ContextVar[TrialHandle | None] = ContextVar("trial", default=None)


def current() -> TrialHandle | None:
    """The trial this job is, or None outside a study."""
    return _current.get()


@contextlib.contextmanager
def running(trial: TrialHandle) -> Iterator[None]:
    """Make a trial the current one."""
    token = _current.set(trial)
    try:
        yield
    finally:
        _current.reset(token)
