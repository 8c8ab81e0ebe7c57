"""What is said to a user: no secrets, nothing that a terminal would obey."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from deepfake.errors import UserError, closest, first_line, harmless, masked, of_a_place, sigterm_interrupts


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://bob:S3cret@host:5000/x", "http://bob:***@host:5000/x"),
        ("postgresql+psycopg://bob:p@ss@db/name", "postgresql+psycopg://bob:***@db/name"),
        ("at http://:only@h and ftp://a:b@c", "at http://:***@h and ftp://a:***@c"),
        ("mysql://h/db?user=me&password=S3cret&ssl=1", "mysql://h/db?user=me&password=***&ssl=1"),
        ("https://h/?access_token=abc", "https://h/?access_token=***"),
        ("sqlite:////data/a@b:c/mlflow.db", "sqlite:////data/a@b:c/mlflow.db"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
    ],
)
def test_only_the_secrets_of_a_uri_are_masked(uri: str, shown: str) -> None:
    assert masked(uri) == shown


def test_an_error_tells_no_password() -> None:
    assert "S3cret" not in str(UserError("no answer from http://b:S3cret@h", "try http://b:S3cret@h"))


def test_a_terminal_obeys_nothing_in_a_name() -> None:
    assert harmless("a\x1b[31mred\x07 \x9b1m \udcff \u202e漢字 é") == "a%1B[31mred%07 %C2%9B1m %FF %E2%80%AE漢字 é"


def test_lines_and_columns_stay() -> None:
    assert harmless("one\n\ttwo  three") == "one\n\ttwo  three"


def test_an_error_quotes_control_characters() -> None:
    assert str(UserError("no \x1b]0;title\x07 here", "x")) == "error: no %1B]0;title%07 here\nhint: x"


def test_a_place_that_cannot_be_used_is_a_users_mistake() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "x", "/full/file")
        except OSError as error:
            raise RuntimeError("saving failed") from error
    except RuntimeError as error:
        found = of_a_place(error)
    assert found is not None
    assert found.message.startswith(f"cannot use /full/file: {os.strerror(errno.ENOSPC)} (")
    assert found.message.endswith(" MB free)")
    assert "make room" in found.hint


def test_what_libraries_say_of_a_full_disk_is_understood() -> None:
    assert of_a_place(RuntimeError("(sqlite3.OperationalError) database or disk is full")) is not None


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "x"), FileNotFoundError(errno.ENOENT, "x"), ValueError("x"), None]
)
def test_other_errors_keep_their_traceback(error: Exception | None) -> None:
    assert of_a_place(error) is None


def test_the_first_line_of_an_error_is_its_type_where_it_says_nothing() -> None:
    assert [first_line(ValueError("\n one\ntwo")), first_line(KeyError())] == ["one", "KeyError"]


def test_a_close_choice_is_named_and_none_where_none_is_close() -> None:
    assert [closest("cnn_lstn", ["cnn", "cnn_lstm"]), closest("zebra", ["cnn"])] == ["did you mean 'cnn_lstm'?", ""]


def test_sigterm_is_an_interruption_while_asked_for_and_ends_a_forked_process() -> None:
    with sigterm_interrupts():
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_sigterm_that_is_there_stays() -> None:
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with sigterm_interrupts():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, former)
