"""A trial's signs of life while it runs, and its end where it runs too long or is no longer this process's.

A thread beside the job; it stops the job by an exception in the main thread. Knows the study, not what a job does.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from deepfake.sweeping.observer import FAILED, Job
from deepfake.sweeping.outage import is_outage
from deepfake.sweeping.study import Claim, Study
from deepfake.sweeping.trial import Overdue, Stopped, Taken

log = logging.getLogger(__name__)

#: How a process ends whose job does not let itself be stopped.
OVERDUE_STATUS = 76
#: How long a job that is overdue may take to stop before its process is ended from inside.
_GRACE_SECONDS = 30.0
#: While the storage does not answer, signs of life are tried at least this often, so as not to be taken for dead.
_TRY_SECONDS = 5.0


class Heartbeat:
    """Beats while entered.

    Attributes:
        stopped: What the job was stopped by, if it was: libraries turn exceptions into errors of their own.
    """

    def __init__(self, study: Study, claim: Claim, end_process: Callable[[int], None] = os._exit) -> None:
        self._study, self._claim, self._end_process = study, claim, end_process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._signals = threading.current_thread() is threading.main_thread()
        self._former: object = None
        self.stopped: Stopped | None = None

    def __enter__(self) -> Heartbeat:
        if self._signals:
            # A handler of Python's own kind, for only those run in the main thread, and only there raise.
            self._former = signal.signal(signal.SIGINT, self._interrupt)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        # One that waits for a storage which does not answer is not waited for: it does nothing more.
        self._thread.join(_TRY_SECONDS)
        if self._signals:
            signal.signal(signal.SIGINT, self._former)  # type: ignore[arg-type]

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stopped is not None:
            if not self._over.is_set():
                raise self.stopped
        elif callable(self._former):
            self._former(number, frame)
        elif self._former is not signal.SIG_IGN:
            raise KeyboardInterrupt

    def _beat(self) -> None:
        plan = self._study.plan
        limit = None if plan.trial_timeout is None else time.monotonic() + plan.trial_timeout
        pause = plan.heartbeat
        while not self._over.wait(pause if limit is None else max(0.0, min(pause, limit - time.monotonic()))):
            if limit is not None and time.monotonic() >= limit:
                self._end_overdue()
                return
            try:
                held = self._study.beat(self._claim)
            except Exception as error:
                if not is_outage(error):
                    log.exception("trial %s gives no more signs of life", self._claim.number)
                    return
                self._study.notice_outage()
                pause = min(plan.heartbeat, _TRY_SECONDS)
                continue
            pause = plan.heartbeat
            if not held:
                self._stop(Taken())
                return

    def _end_overdue(self) -> None:
        claim, plan = self._claim, self._study.plan
        stop = Overdue(f"sweep.trial_timeout: it ran for more than {plan.trial_timeout:g} s")
        # Told first: whether the job can be stopped is not known yet.
        self._study.finish(claim, Job(claim.number, claim.overrides, FAILED, reason=str(stop)))
        self._stop(stop)
        if not self._over.wait(_GRACE_SECONDS):
            print(f"trial {claim.number}: {stop}, and does not let itself be stopped", file=sys.stderr, flush=True)
            self._end_process(OVERDUE_STATUS)

    def _stop(self, stop: Stopped) -> None:
        # An exception in the midst of writing would leave it half done.
        with self._study.between_writes():
            self.stopped = stop
            if self._signals and not self._over.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
