"""A worker of the pool: ``python -m deepfake.sweeping.worker`` reads its work from standard input and does it.

It imports once for all its trials and lives as long as its parent holds the pipe open, never longer: nothing heavy is
imported before the parent is watched.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from deepfake.errors import UserError, sigterm_interrupts

if TYPE_CHECKING:
    from deepfake.sweeping.callbacks import Job
    from deepfake.sweeping.jobs import JobRunner
    from deepfake.sweeping.study_plan import StudyPlan

#: How long a job may take to stop once the parent is gone, before the process is ended from inside.
GRACE_SECONDS = 20.0
_INTERRUPTED = 130
#: How a worker ends whose trial made it useless; what becomes of the trial is settled.
LOST_STATUS = 75
#: What the parent writes to a worker that is to let go of its trial after the epoch, and to end.
LEAVE = b"l"


@dataclass(frozen=True)
class Work:
    """What a worker is to do, and for whom."""

    runner: JobRunner
    plan: StudyPlan
    supervisor: dict[str, Any]
    token: str


def pack(work: Work) -> bytes:
    """The work as bytes, with the places Python imports from first: unpacking the rest needs them."""
    import cloudpickle
    from hydra.core.singleton import Singleton

    return bytes(cloudpickle.dumps((list(sys.path), cloudpickle.dumps((Singleton.get_state(), work)))))


def unpack(data: bytes) -> Work:
    """The work again, with Hydra's state restored; only for bytes that :func:`pack` made."""
    import cloudpickle

    paths, rest = cloudpickle.loads(data)
    sys.path.extend(path for path in paths if path not in sys.path)
    from hydra.core.singleton import Singleton

    state, work = cloudpickle.loads(rest)
    Singleton.set_state(state)
    assert isinstance(work, Work)
    return work


def main() -> int:
    """Returns the exit status: 0 when the study has no more work."""
    # To look through all that was imported for what refers to itself takes a second or two, and it ends anyway.
    atexit.register(gc.freeze)
    # Not through sys.stdin: a thread waiting inside its lock would break the interpreter's own end.
    pipe = sys.stdin.fileno()
    data = _read(pipe, int.from_bytes(_read(pipe, 8), "big"))
    leaving = threading.Event()
    watch_parent(pipe, leaving)
    with sigterm_interrupts():
        return _work(data, leaving)


def _work(data: bytes, leaving: threading.Event) -> int:
    from deepfake.sweeping.agent import work
    from deepfake.sweeping.claims import Claims
    from deepfake.sweeping.keeping_alive import OVERDUE_STATUS
    from deepfake.sweeping.study import Study

    given = unpack(data)
    try:
        study = Study(given.plan, supervisor=given.supervisor, token=given.token)
        work(Claims(study, leaving), given.runner, finished=_say_failure, replaceable=True)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except UserError as error:
        print(error, file=sys.stderr)
        return LOST_STATUS
    except SystemExit as ended:
        return OVERDUE_STATUS if ended.code == OVERDUE_STATUS else LOST_STATUS
    return 0


def _say_failure(job: Job) -> None:
    """The log of the worker shows a failed trial's exception too."""
    if job.traceback is not None:
        print(f"trial {job.number} failed:\n{Path(job.traceback).read_text(encoding='utf-8')}", file=sys.stderr)


def _read(pipe: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(pipe, size)
        if not part:
            sys.exit("the parent left before it had said what to do")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def watch_parent(pipe: int, leaving: threading.Event | None = None) -> None:
    """Raise KeyboardInterrupt in this, the main thread once the other end of the pipe is closed.

    Args:
        leaving: Is set once the parent says :data:`LEAVE`.
    """
    gone = threading.Event()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # What a script starts in the background ignores Ctrl-C, and with it the interruption from inside: from now
        # on only Ctrl-C is.
        signal.signal(signal.SIGINT, _interrupt_once(gone))
    threading.Thread(
        target=_end_with_parent, args=(pipe, gone, leaving or threading.Event()), name="parent", daemon=True
    ).start()


def _interrupt_once(gone: threading.Event) -> Callable[[int, FrameType | None], None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        if gone.is_set():
            raise KeyboardInterrupt

    return interrupt


def _end_with_parent(pipe: int, gone: threading.Event, leaving: threading.Event) -> None:
    while os.read(pipe, 1):
        leaving.set()
    gone.set()
    # A signal of the kernel's: one from inside the interpreter does not wake who waits for another thread.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(GRACE_SECONDS)
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    # As what it is imported as, too: what it is sent is of that module's classes, not of this one's.
    from deepfake.sweeping import worker  # noqa: PLW0406

    sys.exit(worker.main())
