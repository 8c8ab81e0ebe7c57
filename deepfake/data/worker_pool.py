"""Jobs spread over worker processes, records as they come. Knows how to start, feed, replace and stop workers.

A worker that dies or does not end with its file is replaced, and its file listed.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepfake.data.crop_records import Record, StoreWriter, read_records
from deepfake.data.cropping import CutSettings
from deepfake.data.media import Deadline, timed_out
from deepfake.data.prepare_worker import Job, Worker, pack_job, pack_settings, stamp, time_limit, worker_environment
from deepfake.errors import DataError
from deepfake.installation import available_cores, child_environment, module_command
from deepfake.progress import Progress, bar

#: What a worker process runs.
WORKER = tuple(module_command(Worker.__module__))

_WORTH_WORKERS = 6  # with fewer samples, starting more than one worker process costs more than it saves
_GRACE = 3.0  # seconds: a worker minds the limit itself, but for what a decoder does in one go


def run_jobs(
    jobs: Sequence[Job], folder: Path, settings: CutSettings, workers: int, command: Sequence[str] = WORKER
) -> Iterator[Record]:
    """Prepare samples and yield their records in the order in which they are done.

    Args:
        jobs: The samples.
        folder: The store their crops go to.
        settings: How to cut.
        workers: Processes; 0 prepares in this one. A file that ends its process is tried once more, then listed; one
            that takes longer than it may is listed at once.
        command: What such a process runs.

    Raises:
        OSError: The store cannot be written, for want of room say. Samples done before are kept.
        DataError: Worker processes cannot be started.
    """
    if workers <= 0:
        worker = Worker(folder, settings)
        try:
            for job in jobs:
                yield worker(job)
        finally:
            worker.close()
        return
    pool = _Pool(jobs, folder, settings, command)
    try:
        yield from pool.run(workers)
    finally:
        pool.stop()


def prepare_jobs(
    jobs: Sequence[Job], folder: Path, settings: CutSettings, workers: int | str, progress: Progress | None = None
) -> None:
    """Cut samples into a store's folder, originals before what was made from them.

    Args:
        jobs: The samples.
        folder: Gets the crops, a record for each sample.
        settings: How to cut.
        workers: Processes; ``auto`` takes one for each core. 0 works in this one, which a decoder that crashes ends.
        progress: Told of every sample.

    Raises:
        DataError: The crops cannot be written.
    """
    count = _worker_count(workers, len(jobs))
    try:
        with bar(progress, len(jobs), "preparing crops") as prepared:
            for phase in phases(jobs, folder, settings):
                for _ in run_jobs(phase, folder, settings, count):
                    prepared.advance()
    except OSError as error:
        raise DataError(
            f"cannot write crops to {folder}: {error.strerror or error}",
            "make room and run the same command again; what is done is kept",
        ) from error


def phases(jobs: Sequence[Job], folder: Path, settings: CutSettings) -> Iterator[Sequence[Job]]:
    """Originals first, so that what was made from them can use their tracks."""
    if (
        settings.align
        or settings.view == "patches"
        or settings.faces in ("center", "none")
        or not any(job.original for job in jobs)
    ):
        yield jobs
        return
    yield [job for job in jobs if not job.original]
    records = read_records(folder)
    yield [replace(job, like=records.get(job.original)) for job in jobs if job.original]


def _worker_count(workers: int | str, jobs: int) -> int:
    if isinstance(workers, int):
        return workers
    return 1 if jobs < _WORTH_WORKERS else available_cores()


class _Pool:
    """One thread for each worker process, which hands it a job, waits for the record and goes on."""

    def __init__(self, jobs: Sequence[Job], folder: Path, settings: CutSettings, command: Sequence[str]) -> None:
        self._command = list(command)
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            self._jobs.put(job)
        self._count = len(jobs)
        self._folder = folder
        self._first_line = pack_settings(folder, settings)
        self._done: queue.SimpleQueue[Record | Exception] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._processes: set[subprocess.Popen[str]] = set()
        self._threads: list[threading.Thread] = []

    def run(self, workers: int) -> Iterator[Record]:
        for _ in range(min(workers, self._count)):
            thread = threading.Thread(target=self._feed, daemon=True)
            self._threads.append(thread)
            thread.start()
        for _ in range(self._count):
            record = self._done.get()
            if isinstance(record, Exception):
                raise record
            yield record

    def stop(self) -> None:
        """End workers that are still at it; what they had not yet written down is lost."""
        self._stopping.set()
        for process in list(self._processes):
            process.kill()
        for thread in self._threads:
            # An interruption may have come before the last one began.
            if thread.ident is not None:
                thread.join()

    def _feed(self) -> None:
        process = None
        try:
            while not self._stopping.is_set():
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    return
                for again in (True, False):
                    process = process or self._start()
                    limit = time_limit(job)
                    answer, late = _ask(process, job, limit + _GRACE)
                    if answer is not None or self._stopping.is_set():
                        break
                    self._end(process)
                    process = None
                    if late:
                        answer = {"record": self._write_down(job, "timeout", timed_out(limit))}
                        break
                    if not again:
                        answer = {"record": self._write_down(job, "crashed", "the process that decoded it died, twice")}
                if answer is not None:
                    self._done.put(_unpack(answer))
        except Exception as error:
            self._done.put(error)
        finally:
            if process is not None:
                self._end(process)

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="ascii",
            env=child_environment(os.environ) | worker_environment(),
        )
        self._processes.add(process)
        if _exchange(process, self._first_line) is None and not self._stopping.is_set():
            raise DataError(
                f"a worker process ended with status {process.wait()} before its first sample",
                "prepare in one process with dataset.workers=0 to see why",
            )
        return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        """Its input ends, so it does; a crashed one has already."""
        self._processes.discard(process)
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except BrokenPipeError:
                pass
        process.wait()

    def _write_down(self, job: Job, status: str, reason: str) -> Record:
        """A file that its worker has no answer for is listed; the others go on."""

        writer = StoreWriter(self._folder)
        # What could not be read through in time is not read through again.
        known = stamp(job.file, Deadline(0 if status == "timeout" else time_limit(job)))
        record = {"sample_id": job.sample_id, **known, "status": status, "reason": reason}
        try:
            return writer.append(record, None)
        finally:
            writer.close()


def _ask(process: subprocess.Popen[str], job: Job, seconds: float) -> tuple[dict[str, Any] | None, bool]:
    """The answer, None when the process is gone, and whether it was ended because it took too long."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        line = _exchange(process, pack_job(job))
    finally:
        timer.cancel()
    return (None if line is None else json.loads(line)), late.is_set()


def _exchange(process: subprocess.Popen[str], line: str) -> str | None:
    """Send a line and wait for one; None when the process is gone."""
    if process.stdin is None or process.stdout is None:
        return None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except (OSError, ValueError):
        return None
    return answer if answer.endswith("\n") else None


def _unpack(answer: dict[str, Any]) -> Record | Exception:
    if "record" in answer:
        return dict(answer["record"])
    return OSError(answer["errno"], answer["error"])
