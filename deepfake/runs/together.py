"""Several jobs of one process at the same time, in turns: those that train on stored features share their steps.

Each job runs its own code from beginning to end, in a greenlet of the main thread, and gives way at one place only:
before it trains an epoch's batches. Once all of them stand there, the batches are trained together
(:mod:`deepfake.training.features.fused`) and each goes on. Knows no study: whoever calls says what runs.
"""

from __future__ import annotations

import contextvars
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import greenlet
import numpy as np
from hydra.core.hydra_config import HydraConfig

from deepfake.runs.console import Console
from deepfake.sweeping.jobs import Member

if TYPE_CHECKING:
    from deepfake.training.features.fused import Company, Stretch
    from deepfake.training.runtime import Interruption


#: What was told of trials that are not trained together, by this process.
_said: set[str] = set()
_company: contextvars.ContextVar[Company | None] = contextvars.ContextVar("company", default=None)


def company() -> Company | None:
    """Those beside whom this job is trained, or None where it is the only one."""
    return _company.get()


def run_together(following: Callable[[], Member | None], most: int) -> None:
    """Run jobs, so many at a time, until there is none left.

    Another one is asked for only while all that run have come to be trained together: a job that never does runs to its
    end before the next one begins.

    Args:
        following: Gives the next job; None where there is none now. It is asked again after each epoch.
        most: How many run at a time.

    Raises:
        BaseException: What a job raised; the others were interrupted.
    """
    group = _Group(most)
    with group.signals:
        try:
            group.run(following)
        except BaseException:
            group.end()
            raise


class _Group:
    """The jobs that run, and what they are to each other: a :class:`~deepfake.training.features.fused.Company`."""

    def __init__(self, most: int) -> None:
        from deepfake.training.runtime import Interruption

        group = self

        class Signals(Interruption):
            """For all of them; a job that cannot be asked, because it does not train, is interrupted at once."""

            def _raise_flag(self, number: int, frame: FrameType | None) -> None:
                super()._raise_flag(number, frame)
                if group.running is not None and not group.running.trains and callable(self._former):
                    self._former(number, frame)

        self.signals = Signals()
        self.running: _Job | None = None
        self._most = most
        self._jobs: list[_Job] = []

    def run(self, following: Callable[[], Member | None]) -> None:
        """See :func:`run_together`."""
        while True:
            while len(self._jobs) < self._most and not self.signals.asked():
                member = following()
                if member is None:
                    break
                self._jobs.append(_Job(member, None if member.alone else self))
                self._go_on(self._jobs[-1])
            if not self._jobs:
                return
            self._train()
            for job in list(self._jobs):
                self._go_on(job)

    def end(self) -> None:
        """Interrupt all that still run: as Ctrl-C would, or as SIGTERM did, which lets them save what they have."""
        asked = self.signals.asked()
        for job in list(self._jobs):
            for error in [None, KeyboardInterrupt()] if asked else [KeyboardInterrupt()]:
                # The first that was raised is what is told.
                with suppress(KeyboardInterrupt, SystemExit, Exception):
                    if job in self._jobs:
                        self._go_on(job, error)

    # ---- what a job sees

    def train(self, stretch: Stretch) -> None:
        """See :meth:`~deepfake.training.features.fused.Company.train`."""
        assert self.running is not None
        self.running.wait(stretch)

    def alone(self, why: str) -> None:
        """Say once what is not done, and why."""
        if why not in _said:
            _said.add(why)
            Console().say(f"note: sweep.fuse: {why}; such trials are trained one by one")

    @contextmanager
    def interruption(self) -> Iterator[Interruption]:
        """See :meth:`~deepfake.training.features.fused.Company.interruption`: one for all of them."""
        job = self.running
        assert job is not None
        job.trains = True
        try:
            yield self.signals
        finally:
            job.trains = False

    # ---- turns

    def _go_on(self, job: _Job, error: BaseException | None = None) -> None:
        """Let a job run until it is to be trained, or ends."""
        self.running = job
        job.member.begin_turn()
        try:
            job.resume(error or job.member.stopped())
        finally:
            job.member.end_turn()
            self.running = None
            if job.ended:
                self._jobs.remove(job)

    def _train(self) -> None:
        """Train all that wait for it, those of one shape at once."""
        from deepfake.training.features.fused import train_together

        shapes: dict[Any, list[_Job]] = {}
        for job in self._jobs:
            shapes.setdefault(job.stretch.key, []).append(job)
        for jobs in shapes.values():
            for job in jobs:
                job.member.begin_turn(len(jobs))
            try:
                train_together([job.stretch for job in jobs], self._to_stop)
            except Exception as error:
                # Theirs, not the others'.
                for job in jobs:
                    job.failure = error
            finally:
                for job in jobs:
                    job.member.end_turn()

    def _to_stop(self) -> bool:
        return self.signals.asked() or any(job.member.stopped() is not None for job in self._jobs)


class _Job:
    """A job in a greenlet of its own, with what is otherwise the whole process's: random states, Hydra's config."""

    def __init__(self, member: Member, group: _Group | None) -> None:
        self.member = member
        self.trains = False
        self.failure: BaseException | None = None
        self._stretch: Stretch | None = None
        self._process = _State()
        self._outer = greenlet.getcurrent()
        self._greenlet = greenlet.greenlet(member.run)
        self._greenlet.gr_context = contextvars.copy_context()
        self._greenlet.gr_context.run(_company.set, group)

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return bool(self._greenlet.dead)

    @property
    def stretch(self) -> Stretch:
        """What it waits for."""
        assert self._stretch is not None
        return self._stretch

    def resume(self, error: BaseException | None = None) -> None:
        """Go on, or with an exception where it waits, until it waits again or ends; raises what it ends in."""
        if self._greenlet and (error := error or self.failure) is not None:
            self.failure = None
        outside = _State()
        self._process.restore()
        try:
            if error is None or not self._greenlet:
                self._greenlet.switch()
            else:
                self._greenlet.throw(error)
        finally:
            self._process = _State()
            outside.restore()

    def wait(self, stretch: Stretch) -> None:
        """Give way until the stretch is trained, as far as it is."""
        self._stretch = stretch
        self._outer.switch()
        # Stopped since its turn was given to it.
        if (stopped := self.member.stopped()) is not None:
            raise stopped


class _State:
    """What the process holds now that each job has for itself."""

    def __init__(self) -> None:
        import torch

        self._python, self._numpy, self._torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._hydra = HydraConfig.instance().cfg

    def restore(self) -> None:
        """As it was."""
        import torch

        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        HydraConfig.instance().cfg = self._hydra
