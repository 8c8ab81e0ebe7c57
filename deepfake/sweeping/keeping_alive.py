"""A trial's owner says that it is alive, and stops its job where the trial is another process's or overdue."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar, Token
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
#: Interrupts one of several jobs of a process where it is; ignored where nothing handles it.
_NUDGE = getattr(signal, "SIGURG", None)
#: While the storage does not answer, heartbeats are tried at least this often, so as not to be taken for dead.
_RETRY_SECONDS = 5.0


class Turn:
    """Whether it is the turn of one of several jobs of a process; while it waits, it cannot answer, and spends no time.

    Attributes:
        since: When it began to run, or to be trained with others, by the monotonic clock; None while it waits.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self._spent, self._among = 0.0, 1

    def begin(self, among: int = 1) -> None:
        """It runs from now on, or is trained with others, so many with itself."""
        self.since, self._among = time.monotonic(), among

    def end(self) -> None:
        """It waits for others."""
        self._spent, self.since = self.spent, None

    @property
    def spent(self) -> float:
        """Its share of the process's time, in seconds; those of all its jobs add up to how long it has run them."""
        return self._spent + (0.0 if self.since is None else (time.monotonic() - self.since) / self._among)

    def silence(self, stopped_at: float) -> float:
        """For how many seconds it could have answered a stop of that time, by the monotonic clock."""
        since = self.since
        return 0.0 if since is None else time.monotonic() - max(since, stopped_at)


class Heartbeat:
    """Sends heartbeats while entered, and stops the job where its trial is another process's or overdue.

    Attributes:
        stopped: What the job was stopped by, if it was: libraries turn exceptions into errors of their own.
        turn: As given.

    Args:
        claim: Whose trial it is.
        end_process: How a process is ended whose job does not let itself be stopped.
        turn: Of a job that is one of several of this process: it is interrupted only where it runs itself, asked what
            it was stopped by when its turn comes, and its process is ended only where it does not let itself be stopped
            in its own turn. None for a job that has the process to itself.
    """

    def __init__(
        self,
        claims: Claims,
        claim: Claim,
        end_process: Callable[[int], None] = os._exit,
        turn: Turn | None = None,
    ) -> None:
        self._claims, self._claim, self._end_process = claims, claim, end_process
        self._over = threading.Event()
        self._ended = threading.Event()
        self.turn = turn
        self._signals = threading.current_thread() is threading.main_thread()
        self._former_handler: object = None
        self._outer: Token[Heartbeat | None] | None = None
        self.stopped: Stopped | None = None

    def __enter__(self) -> Heartbeat:
        if self.turn is not None:
            self._outer = _beating.set(self)
            if self._signals and _NUDGE is not None:
                # Stays: jobs that take turns do not end in the order in which they began.
                signal.signal(_NUDGE, _interrupt_current)
        elif self._signals:
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
        if self._outer is not None:
            _beating.reset(self._outer)
        elif self._signals:
            signal.signal(signal.SIGINT, self._former_handler)  # type: ignore[arg-type]

    def interrupt(self) -> None:
        """Raise what the job was stopped by, if it was and still runs."""
        if self.stopped is not None and not self._over.is_set():
            raise self.stopped

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stopped is not None:
            self.interrupt()
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
        stopped_at = time.monotonic()
        while not self._over.wait(_GRACE_SECONDS):
            if self.turn is None or self.turn.silence(stopped_at) >= _GRACE_SECONDS:
                print(f"trial {claim.number}: {stop}, and does not let itself be stopped", file=sys.stderr, flush=True)
                self._end_process(OVERDUE_STATUS)
                return

    def _stop(self, stop: Stopped) -> None:
        # An exception in the midst of writing would leave it half done.
        with self._claims.study.between_writes():
            self.stopped = stop
            number = signal.SIGINT if self.turn is None else _NUDGE
            if self._signals and number is not None and not self._over.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, number)


#: Of the job that runs now, where it is one of several: each has a context of its own.
_beating: ContextVar[Heartbeat | None] = ContextVar("beating", default=None)


def _interrupt_current(number: int, frame: FrameType | None) -> None:
    heartbeat = _beating.get()
    if heartbeat is not None:
        heartbeat.interrupt()
