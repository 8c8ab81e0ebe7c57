"""Mistakes a user can mend, told in two lines, interruptions, and text from elsewhere made safe to print.

Knows nothing of the rooms that raise them.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType


class UserError(Exception):
    """Something the user gave cannot be used; nothing was written because of it.

    The command line prints ``error: <message>`` and ``hint: <hint>`` on standard error and exits with 2.

    Args:
        message: What is wrong and where, quoting the value.
        hint: What to do about it, with the nearest valid choice where there is one.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = _one_line(masked(message))
        self.hint = _one_line(masked(hint))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the two lines, as the command line does."""
        return str(self).splitlines()

    def __str__(self) -> str:
        return f"error: {self.message}\nhint: {self.hint}"


class DataError(UserError):
    """The data on disk cannot be used as asked."""


class TrainingDiverged(UserError, RuntimeError):  # noqa: N818 - it names what happened, as StopIteration does
    """The loss became NaN or infinite; going on would only waste time. What was chosen is to blame, mostly the rate."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "try a lower optimizer.lr, a smaller trainer.clip_norm or trainer.precision=32")


class Interrupted(RuntimeError):  # noqa: N818
    """SIGTERM came; everything was saved and the fit goes on from there bit for bit."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """While entered, SIGTERM does what Ctrl-C does: runs are ended, folders removed, and what was saved is named.

    Does nothing where SIGTERM has a handler already, or outside the main thread, which alone receives signals.
    """
    process = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt("SIGTERM")
        # A forked process inherits this handler; SIGTERM is how its parent ends it.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def is_device_lost(error: BaseException | None) -> bool:
    """Whether an error says that a device stopped working: nothing in this process can use it any more."""
    while error is not None:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "OutOfMemoryError" in kinds or "can't allocate memory" in str(error):
            return False
        # torch names it so from 2.8 on; other libraries that drive the device only say it.
        said = any(words in str(error) for words in ("CUDA error", "CUDNN_STATUS_EXECUTION_FAILED"))
        if "AcceleratorError" in kinds or said:
            return True
        error = error.__cause__
    return False


#: What the disk or its owner forbids; any other OSError is no mistake of a user's.
_OF_A_PLACE = {
    errno.EACCES: "choose a place you may write to",
    errno.EPERM: "choose a place you may write to",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "make room on its disk, or choose another",
    errno.EDQUOT: "make room in your quota, or choose another disk",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file lies where a folder is needed; choose another place",
    errno.EEXIST: "a file lies where a folder is needed; choose another place",
}


#: How libraries say that a disk is full where they raise something of their own.
_FULL = ("database or disk is full", "No space left on device", "StorageFull")


def of_a_place(error: BaseException | None) -> UserError | None:
    """The mistake behind an exception that a full, read-only or forbidden place caused; None for any other."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.ENOENT and _makes_folder(error):
            return UserError(
                f"cannot make {getattr(error, 'filename', None)}: {os.strerror(errno.ENOENT)}",
                "choose a place that can be written to; DEEPFAKE_OUTPUTS or paths.outputs= moves all that is produced",
            )
        if number is None and any(words in str(error) for words in _FULL):
            number = errno.ENOSPC
        if number in _OF_A_PLACE:
            where = str(error.filename) if isinstance(error, OSError) and error.filename else ""
            room = _room(where) if number == errno.ENOSPC else ""
            return UserError(
                f"cannot use{' ' if where else ''}{where}: {os.strerror(number)}{room}",
                f"{_OF_A_PLACE[number]}; DEEPFAKE_OUTPUTS or paths.outputs= moves all that is produced",
            )
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the disk's that names no file, as one of writing does not, names this one; libraries wrap it."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno is not None and cause.filename is None:
                cause.filename = str(path)
            cause = cause.__cause__ or cause.__context__
        raise


def _room(where: str) -> str:
    """How much is free on the disk of a file that may not be there."""
    for folder in Path(where).parents if where else ():
        with suppress(OSError):
            return f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB free)"
    return ""


def _makes_folder(error: BaseException) -> bool:
    """Whether it was raised by the making of a folder: anything else that is not there may be a fault of ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_name in ("mkdir", "makedirs")


def nearest(value: object, choices: Iterable[str]) -> str:
    """A hint that names the closest valid choice first, then the rest.

    Args:
        value: What the user wrote.
        choices: Everything that would have been accepted.

    Returns:
        For example ``did you mean 'cnn_lstm'? choices: cnn, cnn_gru, cnn_lstm``.
    """
    known = sorted(choices)
    listed = f"choices: {', '.join(known)}" if known else "there are no choices"
    return f"{closest(value, known)} {listed}".lstrip()


def closest(value: object, choices: Iterable[str]) -> str:
    """``did you mean 'cnn_lstm'?``, for more choices than anybody reads; empty where none is close."""
    close = difflib.get_close_matches(str(value), sorted(choices), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else ""


def refuse_newer(version: object, known: int, what: str) -> None:
    """Make sure that something was not written in a format of after this version.

    Args:
        version: The format that it names; anything but a number is damage, and not found here.
        known: The newest that can be read.
        what: What it is.

    Raises:
        UserError: It was.
    """
    if isinstance(version, int) and version > known:
        raise UserError(
            f"{what} was written in format {version}, this version reads up to {known}", "update the program"
        )


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


_USER_INFO = re.compile(r"(?<=://)([^/@\s:]*):[^/\s]*@")
_SECRET_FIELD = re.compile(r"(?i)([?&;](?:[\w.-]*(?:password|passwd|pwd|secret|token|api_?key))=)[^&;#\s'\"]+")


def masked(text: str) -> str:
    """A text, its URIs without their secrets: passwords before the ``@`` and in the query are ``***``."""
    return _SECRET_FIELD.sub(r"\1***", _USER_INFO.sub(r"\1:***@", text))


def harmless(text: str) -> str:
    """A text that does nothing to a terminal: control characters and bytes that are no UTF-8 are written as ``%1B``.

    Letters of every script, spaces and line ends stay.
    """
    text = printable(text)
    return "".join(char if char.isprintable() or char in "\n\t" else _escaped(char) for char in text)


def printable(text: str) -> str:
    """The text with bytes that are no UTF-8, which Python holds as surrogates, written as ``%FF``."""
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)


def _escaped(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _one_line(text: str) -> str:
    return harmless(" ".join(text.split()))
