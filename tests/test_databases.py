"""A server that was asked and stays silent, by a driver and an engine of a few lines and a real socket."""

from __future__ import annotations

import signal
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from deepfake.databases import limit_answers


class Broken(Exception):  # noqa: N818 - as drivers call it
    """What the driver raises of its own."""


class Gone(Broken):
    """And where a connection is gone."""


class Dialect:
    """Asks by writing a byte and waiting for one."""

    name = "some"
    is_async = False
    loaded_dbapi = SimpleNamespace(Error=Broken, OperationalError=Gone)

    def do_execute(self, cursor: Any, statement: str, parameters: object, context: object = None) -> bytes:
        cursor.connection.sendall(statement.encode())
        try:
            answer = bytes(cursor.connection.recv(1))
        except KeyboardInterrupt:
            raise Broken("it asks the server to cancel the question, and waits for that") from None
        if not answer:
            raise Broken("closed")
        return answer

    def do_ping(self, connection: socket.socket) -> bytes:
        return self.do_execute(SimpleNamespace(connection=connection), "p", ())

    do_execute_no_params = do_executemany = do_commit = do_rollback = do_ping


@pytest.fixture
def asked():
    """An engine with a limit, a connection, and the server's end of it."""
    ours, theirs = socket.socketpair()
    engine = SimpleNamespace(dialect=Dialect())
    limit_answers(engine, 0.2)  # type: ignore[arg-type]
    yield engine.dialect, ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("question", ["do_execute", "do_ping"])
def test_silence_ends_as_a_connection_that_is_gone(asked, question: str) -> None:
    dialect, ours, _ = asked
    arguments = (SimpleNamespace(connection=ours), "q", ()) if question == "do_execute" else (ours,)
    with pytest.raises(Gone, match=r"no answer in 0\.2 s"):
        getattr(dialect, question)(*arguments)


def test_an_answer_in_time_is_passed_on_and_the_connection_stays(asked) -> None:
    dialect, ours, theirs = asked
    for _ in range(3):
        threading.Thread(target=lambda: (theirs.recv(1), theirs.sendall(b"a"))).start()
        assert dialect.do_execute(SimpleNamespace(connection=ours), "q", ()) == b"a"


def test_an_error_of_the_servers_own_is_left_as_it_is(asked) -> None:
    dialect, ours, theirs = asked
    theirs.close()
    with pytest.raises((Broken, OSError)) as caught:
        dialect.do_ping(ours)
    assert not isinstance(caught.value, Gone)


def test_ctrl_c_ends_a_question_at_once_and_hangs_up(asked) -> None:
    dialect, ours, theirs = asked

    def interrupt() -> None:
        theirs.recv(1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        dialect.do_execute(SimpleNamespace(connection=ours), "q", ())
    # The server hears of it, and nobody waits on the connection any more.
    assert theirs.recv(1) == b""
    assert not [thread for thread in threading.enumerate() if thread.name == "question"]


def test_an_engine_is_limited_once(asked) -> None:
    dialect, _, _ = asked
    first = dialect.do_ping
    limit_answers(SimpleNamespace(dialect=dialect))  # type: ignore[arg-type]
    assert dialect.do_ping is first
