"""A trial's owner says that it is alive, and stops its job where the trial is another process's or overdue."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from deepfake.sweeping import background
from deepfake.sweeping.callbacks import FAILED, Job
from deepfake.sweeping.claims import Claim, Claims
from deepfake.sweeping.outage import is_outage
from deepfake.sweeping.trial import Overdue, Stopped, Taken

log = logging.getLogger(__name__)

#: How a process ends whose job does not let itself be stopped.
OVERDUE_STATUS = 76
#: How long a job that is overdue may need to stop before its process is ended from inside.
_GRACE_SECONDS = 30.0
#: While the storage does not answer, heartbeats are tried at least this often, so as not to be taken for dead.
_RETRY_SECONDS = 5.0


class Heartbeat:
    """Sends heartbeats while entered, and stops the job where its trial is another process's or overdue.

    Attributes:
        stopped: What the job was stopped by, if it was: libraries turn exceptions into errors of their own.

    Args:
        claim: Whose trial it is.
        end_process: How a process is ended whose job does not let itself be stopped.
        signals: Interrupt the job where it is; else it is asked what it was stopped by, as one of several jobs of this
            process.
    """

    def __init__(
        self, claims: Claims, claim: Claim, end_process: Callable[[int], None] = os._exit, signals: bool = True
    ) -> None:
        self._claims, self._claim, self._end_process = claims, claim, end_process
        self._over = threading.Event()
        self._ended = threading.Event()
        self._signals = signals and threading.current_thread() is threading.main_thread()
        self._former_handler: object = None
        self.stopped: Stopped | None = None

    def __enter__(self) -> Heartbeat:
        if self._signals:
            # A handler of Python's own kind, for only those run in the main thread, and only there raise.
            self._former_handler = signal.signal(signal.SIGINT, self._interrupt)
        background.run(self._send)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        # After an interruption nobody waits for a thread that waits for its storage: it does nothing more.
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self._ended.wait(_RETRY_SECONDS)
        if self._signals:
            signal.signal(signal.SIGINT, self._former_handler)  # type: ignore[arg-type]

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stopped is not None:
            if not self._over.is_set():
                raise self.stopped
        elif callable(self._former_handler):
            self._former_handler(number, frame)
        elif self._former_handler is not signal.SIG_IGN:
            raise KeyboardInterrupt

    def _send(self) -> None:
        try:
            self._beat()
        except Exception:
            log.exception("trial %s sends no more heartbeats", self._claim.number)
        finally:
            self._ended.set()

    def _beat(self) -> None:
        plan = self._claims.plan
        limit = None if plan.trial_timeout is None else time.monotonic() + plan.trial_timeout
        pause = plan.heartbeat
        while not self._over.wait(pause if limit is None else max(0.0, min(pause, limit - time.monotonic()))):
            if limit is not None and time.monotonic() >= limit:
                self._end_overdue()
                return
            try:
                held = self._claims.send_heartbeat(self._claim)
            except Exception as error:
                if not is_outage(error):
                    raise
                self._claims.study.watch.forgive()
                pause = min(plan.heartbeat, _RETRY_SECONDS)
                continue
            pause = plan.heartbeat
            if not held:
                self._stop(Taken())
                return

    def _end_overdue(self) -> None:
        claim, plan = self._claim, self._claims.plan
        stop = Overdue(f"sweep.trial_timeout: it ran for more than {plan.trial_timeout:g} s")
        # Written first: whether the job can be stopped is not known yet.
        self._claims.finish(claim, Job(claim.number, claim.overrides, FAILED, reason=str(stop)))
        self._stop(stop)
        if not self._over.wait(_GRACE_SECONDS):
            print(f"trial {claim.number}: {stop}, and does not let itself be stopped", file=sys.stderr, flush=True)
            self._end_process(OVERDUE_STATUS)

    def _stop(self, stop: Stopped) -> None:
        # An exception in the midst of writing would leave it half done.
        with self._claims.study.between_writes():
            self.stopped = stop
            if self._signals and not self._over.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
