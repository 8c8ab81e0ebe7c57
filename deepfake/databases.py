"""A time limit on a database server's answers, which no driver has: one that is frozen keeps its connections open.

Knows SQLAlchemy's engines and the sockets of their connections; nothing of what is asked.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

#: Seconds that a database server has to let somebody in, and for each answer.
ANSWER_SECONDS = 10
#: Seconds that a driver has to notice that its connection was ended.
_WAKING_SECONDS = 1.0
#: What of a dialect waits for the server, each with the connection, or a cursor of it, as its first argument.
_ASKING = ("do_execute", "do_execute_no_params", "do_executemany", "do_commit", "do_rollback", "do_ping")


def limit_answers(engine: Engine, seconds: float = ANSWER_SECONDS) -> None:
    """Give up a connection whose server has not answered for so long.

    What was asked then fails as if the server had closed the connection: SQLAlchemy's OperationalError. To be called
    once for an engine. Does nothing for databases that are files, and for drivers without sockets of their own.
    """
    if engine.dialect.name == "sqlite":
        return
    watch = _Watch(seconds)
    for name in _ASKING:
        # Once more around a dialect would watch each question twice.
        if not isinstance(getattr(engine.dialect, name), _Limited):
            setattr(engine.dialect, name, _Limited(getattr(engine.dialect, name), engine, watch))


class _Limited:
    """One of a dialect's methods, watched while it waits."""

    def __init__(self, ask: Callable[..., Any], engine: Engine, watch: _Watch) -> None:
        self._ask, self._engine, self._watch = ask, engine, watch

    def __call__(self, asked: Any, *arguments: Any, **named: Any) -> Any:
        question = _Question(getattr(asked, "connection", asked), time.monotonic())
        self._watch.begin(question)
        try:
            if threading.current_thread() is not threading.main_thread() or self._engine.dialect.is_async:
                return self._ask(asked, *arguments, **named)
            return _interruptibly(partial(self._ask, asked, *arguments, **named), question.connection)
        except Exception as error:
            module = self._engine.dialect.loaded_dbapi
            if question.given_up and isinstance(error, module.Error):
                raise module.OperationalError(f"no answer in {self._watch.seconds:g} s") from error
            raise
        finally:
            self._watch.end(question)


def _interruptibly(ask: Callable[[], Any], connection: Any) -> Any:
    """Ask from another thread, so that Ctrl-C in this one is heeded at once.

    Drivers that wait in C hear of it once there is an answer; others first ask the server to cancel the question, and
    wait for it to do so.
    """
    answer: Future[Any] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            # It is the asker's to hear, not this thread's.
            answer.set_exception(error)

    thread = threading.Thread(target=work, name="question", daemon=True)
    try:
        thread.start()
        return answer.result()
    except (KeyboardInterrupt, SystemExit):
        if not answer.done():
            _hang_up(connection)
            # It wakes and lets go of the connection, which is about to be closed.
            thread.join(_WAKING_SECONDS)
        raise


class _Question:
    """What a connection is waiting for an answer to, since when, and whether that was given up."""

    def __init__(self, connection: Any, since: float) -> None:
        self.connection, self.since = connection, since
        self.given_up = False


class _Watch:
    """A thread that hangs up where no answer comes; it runs while anything is asked, and a little longer."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._changing = threading.Lock()
        self._open: set[_Question] = set()
        self._running = False

    def begin(self, question: _Question) -> None:
        with self._changing:
            self._open.add(question)
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="answers", daemon=True).start()

    def end(self, question: _Question) -> None:
        with self._changing:
            self._open.discard(question)

    def _work(self) -> None:
        while True:
            time.sleep(self.seconds / 10)
            with self._changing:
                # Within the lock, so that no answer comes and the socket's number is another's by now.
                for question in self._open:
                    if not question.given_up and time.monotonic() - question.since > self.seconds:
                        question.given_up = True
                        _hang_up(question.connection)
                if not self._open:
                    self._running = False
                    return


def _hang_up(connection: Any) -> None:
    """End a connection under whoever waits on it, which then wakes as if the server had ended it."""
    with (
        suppress(AttributeError, OSError, ValueError, TypeError),
        socket.socket(fileno=os.dup(connection.fileno())) as s,
    ):
        s.shutdown(socket.SHUT_RDWR)
