"""Works on a study from wherever a Hydra launcher puts it: a Slurm array, a Ray cluster, processes of submitit.

Each launched job is a worker that takes trial after trial, so none waits for the slowest of a batch. A launcher says
how its jobs ended only once all of them have, and where a cluster keeps no accounts it never hears of one that was
cancelled: so each worker keeps a file in the sweep's folder that says that it lives and how it ended, and the terminal
reads it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from deepfake.compat import job_outcome
from deepfake.errors import UserError
from deepfake.sweeping.agent import work
from deepfake.sweeping.claims import Claims
from deepfake.sweeping.heartbeat import Watch, new_owner
from deepfake.sweeping.jobs import JobRunner, describe, refusal_hint
from deepfake.sweeping.schedule import standing
from deepfake.sweeping.study import Study
from deepfake.sweeping.study_plan import StudyPlan

#: After so many losses of workers in a row, without a trial ended between, the sweep ends.
_HOPELESS = 3
#: How long launchers may take to notice that their jobs have ended.
_NOTICE_SECONDS = 5.0
#: How often the queue is asked for jobs that have not begun, and how often it must not know them to believe it.
_QUEUE_SECONDS, _QUEUE_ANSWERS = 15.0, 2


@dataclass(frozen=True)
class StudyWorker:
    """What the launcher runs in place of the task: the task, for as many trials as the study has for it.

    Attributes:
        token: What the launching process calls its workers; each adds its own number.
    """

    runner: JobRunner
    plan: StudyPlan
    token: str

    def __call__(self, config: DictConfig) -> dict[str, Any]:
        token = f"{self.token}-{HydraConfig.get().job.num}"
        ended: list[int] = []
        with signing(_sign_file(self.plan.folder, token), new_owner(None, self.plan.heartbeat, token)):
            study = Study(self.plan, token=token)
            work(Claims(study), self.runner, finished=lambda job: ended.append(job.number))
        return {"trials": ended}


@contextlib.contextmanager
def signing(file: Path, owner: Mapping[str, Any]) -> Iterator[None]:
    """Keep a file that says who works here, that it is alive, and in the end how it ended.

    Its ``ended`` is None at first, then empty, or what went wrong.
    """
    done = threading.Event()

    def sign(count: int, ended: str | None) -> None:
        partial_file = file.with_suffix(".partial")
        partial_file.write_text(json.dumps({"owner": owner, "beat": count, "ended": ended}), encoding="utf-8")
        partial_file.replace(file)

    def sign_again() -> None:
        count = 0
        while not done.wait(float(owner["heartbeat"])):
            count += 1
            # Without a heartbeat it counts as dead and is replaced; what it does goes on.
            with contextlib.suppress(OSError):
                sign(count, None)

    file.parent.mkdir(parents=True, exist_ok=True)
    sign(0, None)
    thread = threading.Thread(target=sign_again, name="signs", daemon=True)
    thread.start()
    ended = ""
    try:
        yield
    except BaseException as error:
        ended = describe(error)
        raise
    finally:
        done.set()
        thread.join()
        sign(-1, ended)


@dataclass
class _Launch:
    """Jobs that were given to the launcher together."""

    #: The name by which a queue knows them; None where they have none.
    name: str | None
    thread: threading.Thread | None = None
    #: What went wrong with one of them, or with launching.
    trouble: str | None = None
    hint: str | None = None
    #: Whether the launcher reported how each of them ended.
    complete: bool = False
    asked: float = field(default_factory=time.monotonic)
    unknown: int = 0


@dataclass
class _Worker:
    file: Path
    launch: _Launch
    signed: bool = False
    ended: bool = False


class Launched:
    """Workers on one study that a launcher started: those that are lost are replaced while trials are left.

    Args:
        workers: How many trials run at a time.
        say: Tells the user what should be known.

    Use as a context manager: leaving it takes jobs that have not begun out of the queue.
    """

    def __init__(self, study: Study, runner: JobRunner, workers: int, say: Callable[[str], None]) -> None:
        self._study, self._runner, self._count, self._say = study, runner, workers, say
        self._watch = Watch()
        self._workers: list[_Worker] = []
        self._launches: list[_Launch] = []
        self._losses = 0
        self._ended = 0
        self._stopping = False

    def __enter__(self) -> Launched:
        self._launch(self._wanted())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, UserError):
            # Ctrl-C ends this terminal alone; jobs on the cluster go on.
            return
        deadline = time.monotonic() + _NOTICE_SECONDS
        for launch in self._launches:
            assert launch.thread is not None
            launch.thread.join(max(0.0, deadline - time.monotonic()))
            if launch.thread.is_alive() and launch.name:
                _cancel(launch.name)

    def is_idle(self) -> bool:
        """Whether no worker does anything any more; one that has not begun is not waited for at the end."""
        return all(worker.ended or (self._stopping and not worker.signed) for worker in self._workers)

    def look_after(self, stopping: bool) -> None:
        """Replace lost workers, unless the sweep is stopping. Their trials are taken up again by whoever is left.

        Raises:
            UserError: The launcher refuses, or workers are lost again and again without getting anything done.
        """
        self._stopping = stopping
        working = [worker for worker in self._workers if not worker.ended]
        lost = [reason for worker in working if (reason := self._look_at(worker))]
        if not lost or stopping:
            return
        self._say(f"warning: {len(lost)} of {len(working)} workers lost: {lost[0]}")
        ended = self._finished()
        self._losses = self._losses + 1 if ended == self._ended else 1
        self._ended = ended
        refused = next((launch.hint for launch in self._launches if launch.hint), None)
        if refused or self._losses >= _HOPELESS:
            hint = refused or f"see the logs in {self._runner.folder}"
            raise UserError(f"the launcher gets nothing done: {lost[0]}", hint)
        self._launch(min(len(lost), self._wanted() - (len(working) - len(lost))))

    def _look_at(self, worker: _Worker) -> str:
        """Why a worker was lost; empty while it works or waits for its turn, and when it came to its end."""
        launch = worker.launch
        assert launch.thread is not None
        # Asked before the file is read: what a job wrote last is there once the launcher is through.
        over = not launch.thread.is_alive()
        sign = _read_sign(worker.file)
        if sign is None:
            lost = (launch.trouble or "its job never began") if over else self._left_queue(launch)
        else:
            worker.signed = True
            if sign["ended"] is not None:
                worker.ended = True
                return str(sign["ended"])
            if over and launch.complete:
                lost = launch.trouble or "its job ended without saying why"
            else:
                lost = "its process is gone" if self._watch.is_dead(sign["owner"], sign["beat"]) else ""
        worker.ended = bool(lost)
        return lost

    def _left_queue(self, launch: _Launch) -> str:
        """Whether jobs that never began were taken out of the queue, which not every launcher gets to know."""
        if time.monotonic() - launch.asked < _QUEUE_SECONDS:
            return "its job left the queue before it began" if launch.unknown >= _QUEUE_ANSWERS else ""
        launch.asked = time.monotonic()
        launch.unknown = launch.unknown + 1 if launch.name and _is_queued(launch.name) is False else 0
        return ""

    def _finished(self) -> int:
        return sum(trial.state.is_finished() for trial in standing(self._study.trials()))

    def _wanted(self) -> int:
        total = self._study.plan.total
        return self._count if total is None else min(self._count, total - self._finished())

    def _launch(self, count: int) -> None:
        if count <= 0:
            return
        token = str(self._study.owner["token"])
        first = len(self._workers)
        given = OmegaConf.select(self._runner.config, "hydra.launcher.name")
        launch = _Launch(f"{given}-{token[:8]}-{len(self._launches)}" if given else None)
        numbers = range(first, first + count)
        self._workers += [_Worker(_sign_file(self._study.plan.folder, f"{token}-{n}"), launch) for n in numbers]
        self._launches.append(launch)
        # A daemon: the end of this process does not wait for jobs on a cluster.
        launch.thread = threading.Thread(target=self._run, args=(launch, numbers), name="launcher", daemon=True)
        launch.thread.start()

    def _run(self, launch: _Launch, numbers: Sequence[int]) -> None:
        runner, plan = self._runner, self._study.plan
        task = StudyWorker(runner, plan, str(self._study.owner["token"]))
        places = [[*plan.fixed, f"hydra.sweep.subdir=workers/{number}"] for number in numbers]
        try:
            launcher = JobRunner(runner.context, task, _named(runner.config, launch.name)).create_launcher()
            results = launcher.launch(places, initial_job_idx=numbers[0])
        except Exception as error:
            launch.trouble, launch.hint = describe(error), refusal_hint(error)
            return
        failed = [result for result in results if result.status is not JobStatus.COMPLETED]
        launch.trouble = describe(job_outcome(failed[0])) if failed else None
        launch.complete = True


def _sign_file(folder: Path, token: str) -> Path:
    return folder / "workers" / f"{token}.json"


def _read_sign(file: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def _named(config: DictConfig, name: str | None) -> DictConfig:
    named = config.copy()
    if name is not None:
        with open_dict(named):
            named.hydra.launcher.name = name
    return named


def _is_queued(name: str) -> bool | None:
    """Whether Slurm has jobs of this name, running or waiting; None where that cannot be known."""
    found = _slurm("squeue", "--noheader", "--me", f"--name={name}")
    return None if found is None else bool(found.strip())


def _cancel(name: str) -> None:
    """Take the jobs of this name out of Slurm's queue: begun one day, they would only find the study done."""
    _slurm("scancel", f"--name={name}")


def _slurm(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
