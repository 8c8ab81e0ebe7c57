"""Worker processes on one study of this machine: each runs trial after trial, and a dead one is replaced.

The workers claim their trials themselves; the pool watches over them and answers for their deaths.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import TrialState

from deepfake.errors import UserError
from deepfake.installation import available_cores, child_environment, module_command
from deepfake.sweeping.claims import Claims
from deepfake.sweeping.heartbeat import process_identity
from deepfake.sweeping.jobs import JobRunner
from deepfake.sweeping.keeping_alive import OVERDUE_STATUS
from deepfake.sweeping.study import Study
from deepfake.sweeping.worker import GRACE_SECONDS, LEAVE, LOST_STATUS, Work, pack

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: After so many deaths of workers in a row, without a trial ended between, no more are started.
_HOPELESS = 3
#: After so many losses of a device in a row, without a trial completed between, it counts as broken.
_BROKEN = 3


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1")]
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def worker_environment(
    index: int, workers: int, gpus: list[str], environment: Mapping[str, str], threads: int | None = None
) -> dict[str, str]:
    """The environment of one worker.

    Args:
        index: Which of them, from 0; with more workers than GPUs, several use one.
        environment: The parent's; numbers of threads set there stay.
        threads: With how many each trial of the study computes, whatever is set there; None: its share of the cores.
    """
    child = dict(environment)
    if gpus:
        child["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    share = dict.fromkeys(_THREADS, str(threads or max(1, available_cores() // workers)))
    return {**share, **child} if threads is None else {**child, **share}


@dataclass
class _Worker:
    index: int
    token: str
    process: subprocess.Popen[bytes]
    log: Path
    gone: bool = False
    retired: bool = False


class Pool:
    """Worker processes on one study.

    Args:
        workers: How many trials run at a time.

    Use as a context manager: leaving it ends the workers, letting go of what they were running.
    """

    def __init__(self, study: Study, runner: JobRunner, workers: int) -> None:
        self._study = study
        self._claims = Claims(study)
        self._runner = runner
        self._count = workers
        self._gpus = visible_gpus(os.environ)
        self._threads = None if study.order is None else study.order.threads
        self._workers: list[_Worker] = []
        self._deaths = 0
        self._ended = 0
        self._device_losses = dict.fromkeys(range(workers), 0)

    @property
    def notes(self) -> list[str]:
        """What the user should know of the workers on this machine."""
        notes = [f"{self._count} workers say what they do in {self._runner.folder / 'workers'}"]
        if self._gpus and self._count > len(self._gpus):
            gpus = f"the {len(self._gpus)} GPUs" if len(self._gpus) > 1 else "the one GPU"
            notes.append(f"warning: sweep.n_jobs={self._count} is more than {gpus} here: trials share")
        return notes

    def __enter__(self) -> Pool:
        self._workers = [self._start(index) for index in range(self._count)]
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def is_idle(self) -> bool:
        """Whether every worker has ended because there is nothing left to run."""
        return all(worker.gone or self._is_through(worker) for worker in self._workers)

    def resize(self, workers: int) -> str:
        """Keep so many workers busy from now on: new ones start at once, those that are too many end with their epoch.

        Returns:
            What is done, in a few words.
        """
        before = [worker for worker in self._workers if not worker.retired]
        for worker in before[workers:]:
            worker.retired = True
            self._tell_to_leave(worker)
        self._count = workers
        known = len(self._device_losses)
        self._device_losses |= dict.fromkeys(range(known, workers), 0)
        used = {worker.index for worker in self._workers if not worker.retired}
        free = (index for index in range(workers) if index not in used)
        for _ in range(workers - len(before)):
            self._workers.append(self._start(next(free)))
        fewer = len(before) - workers
        return f"{fewer} end with their epoch" if fewer > 0 else f"{-fewer} more begin"

    def look_after(self, stopping: bool) -> None:
        """Let go of what dead workers were running, and replace them unless the sweep is stopping.

        Raises:
            UserError: Workers die without getting anything done.
        """
        self._workers = [one for one in self._workers if not (one.retired and self._is_through(one))]
        for place, worker in enumerate(self._workers):
            status = worker.process.poll()
            if status is None or status == 0 or worker.gone:
                continue
            reason = _cause(status)
            left = self._claims.abandon(worker.token, reason)
            if status == LOST_STATUS:
                self._count_loss(worker)
            elif status != OVERDUE_STATUS and not left and not stopping:
                # One that ran a trial was able to start; the trial's count of deaths decides what becomes of it.
                self._count_death(worker, reason)
            worker.gone = stopping or worker.retired or self._device_losses[worker.index] >= _BROKEN
            if not worker.gone:
                self._workers[place] = self._start(worker.index)
        self._workers = [one for one in self._workers if not (one.retired and one.gone)]
        if not stopping and self._workers and all(worker.gone for worker in self._workers):
            raise UserError(
                f"no worker can go on, each ended {_BROKEN} times in mid-trial: {_last_line(self._workers[0].log)}",
                f"see {self._runner.folder / 'workers'}; once that is mended, the same command goes on",
            )

    @staticmethod
    def _is_through(worker: _Worker) -> bool:
        return worker.process.poll() == 0

    @staticmethod
    def _tell_to_leave(worker: _Worker) -> None:
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            worker.process.stdin.write(LEAVE)
            worker.process.stdin.flush()

    def _count_loss(self, worker: _Worker) -> None:
        good = any(
            trial.state.is_finished()
            and trial.state is not TrialState.FAIL
            and (trial.user_attrs.get("owner") or {}).get("token") == worker.token
            for trial in self._study.trials()
        )
        self._device_losses[worker.index] = 1 if good else self._device_losses[worker.index] + 1

    def _count_death(self, worker: _Worker, reason: str) -> None:
        ended = sum(trial.state.is_finished() for trial in self._study.trials())
        self._deaths = self._deaths + 1 if ended == self._ended else 1
        self._ended = ended
        if self._deaths >= _HOPELESS:
            raise UserError(f"workers cannot start: {reason}; {_last_line(worker.log)}", f"see {worker.log}")

    def _start(self, index: int) -> _Worker:
        token = f"{self._study.owner['token']}-{uuid.uuid4().hex}"
        folder = self._runner.folder / "workers"
        folder.mkdir(parents=True, exist_ok=True)
        environment = child_environment(worker_environment(index, self._count, self._gpus, os.environ, self._threads))
        log = folder / f"{os.getpid()}-{index}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                module_command("deepfake.sweeping.worker"),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C reaches the parent alone, which then ends the workers.
                start_new_session=True,
            )
        data = pack(Work(self._runner, self._study.plan, process_identity(), token))
        assert process.stdin is not None
        try:
            process.stdin.write(len(data).to_bytes(8, "big") + data)
            process.stdin.flush()
        except BrokenPipeError:
            # It died at once, which look_after will find.
            pass
        return _Worker(index, token, process, log)


def _cause(status: int) -> str:
    if status >= 0:
        return f"its worker ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    memory = " (the system may be out of memory)" if -status == signal.SIGKILL else ""
    return f"its worker was killed by {name}{memory}"


def _last_line(log: Path) -> str:
    lines: Sequence[str] = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "its log is empty"
