"""A process that prepares samples: jobs in as lines of JSON, records out. ``python -m deepfake.data.worker``.

A plain program rather than a fork or a spawn of the caller: it imports only what it needs, whatever the caller is.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepfake.data.cut import CutSettings
from deepfake.data.image import MOST_PIXELS
from deepfake.data.plan import ClipPlan
from deepfake.data.work import Job, Worker

_MEMORY = 1 << 30  # bytes that one file may take, beside its crops


def worker_environment() -> dict[str, str]:
    """What such a process is started with, beside what any has."""
    # OpenCV reads it when it is imported, and minds it in every format, before it decodes.
    return {"OPENCV_IO_MAX_IMAGE_PIXELS": str(MOST_PIXELS)}


def pack_settings(folder: Path, settings: CutSettings) -> str:
    """The first line a worker reads."""
    return json.dumps({"folder": str(folder), **asdict(settings)})


def unpack_settings(line: str) -> tuple[Path, CutSettings]:
    """What :func:`pack_settings` wrote."""
    values: dict[str, Any] = json.loads(line)
    return Path(values.pop("folder")), CutSettings(**{**values, "plan": ClipPlan(**values["plan"])})


def pack_job(job: Job) -> str:
    """One line for one job; bytes of file names that are no UTF-8 survive as escapes."""
    return json.dumps({**asdict(job), "file": str(job.file)})


def main() -> None:
    """Read settings, then jobs until standard input ends; a sample's record, or the error that stopped it, a line."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    cv2.setNumThreads(1)
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print must not be read as an answer
    folder, settings = unpack_settings(sys.stdin.readline())
    worker = Worker(folder, settings)
    _limit_memory(settings)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        values = json.loads(line)
        job = Job(**{**values, "file": Path(values["file"])})
        try:
            answer: dict[str, Any] = {"record": worker(job)}
        except OSError as error:
            answer = {"errno": error.errno, "error": error.strerror or str(error)}
        try:
            print(json.dumps(answer), file=answers, flush=True)
        except BrokenPipeError:  # whoever asked is gone
            os._exit(1)


def _limit_memory(settings: CutSettings) -> None:
    """From here on what a file says of itself cannot make this process grow beyond measure; where Linux tells sizes."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    used = next(line for line in status.read_text().splitlines() if line.startswith("VmData:"))
    plan = settings.plan
    crops = 2 * plan.clips * plan.frames * settings.size**2 * 3  # as cut, and as dealt to clips
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = (int(used.split()[1]) << 10) + _MEMORY + crops
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


if __name__ == "__main__":
    main()
