"""Where a study is remembered: a journal file, sqlite, or any database server, opened safely by many at once.

Knows Optuna's storages and their locks; nothing of trials.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from deepfake.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_JOURNAL_ENDINGS = (".journal", ".log")
_SQLITE_ENDINGS = (".db", ".sqlite", ".sqlite3")
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Location:
    """A study's storage: ``url`` for a database, ``journal`` for a file; and the file that is locked."""

    lock: Path
    url: str | None = None
    journal: Path | None = None

    def __str__(self) -> str:
        if self.journal is not None:
            return str(self.journal)
        from sqlalchemy.engine import make_url

        return make_url(str(self.url)).render_as_string(hide_password=True)


def locate(storage: str, folder: Path) -> Location:
    """What ``sweep.storage`` means for a sweep in this folder.

    Raises:
        UserError: Neither a known word, a file with a known ending, nor a URL.
    """
    path = Path(storage).expanduser().absolute()
    if storage == "journal":
        path = folder / "study.journal"
    elif storage == "sqlite":
        path = folder / "study.db"
    elif "://" in storage:
        return _from_url(storage, folder)
    lock = path.with_name(path.name + ".claim")
    if path.suffix in _JOURNAL_ENDINGS:
        return Location(lock, journal=path)
    if path.suffix in _SQLITE_ENDINGS:
        return Location(lock, url=f"sqlite:///{path}")
    raise UserError(
        f"sweep.storage={storage!r} is no storage",
        "journal, sqlite, a path ending in .journal or .db, or a URL such as postgresql://user@host/db",
    )


def _from_url(storage: str, folder: Path) -> Location:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(storage)
    except ArgumentError as error:
        raise UserError("sweep.storage cannot be read as a URL", "write postgresql://user@host/db") from error
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database).absolute()
        return Location(path.with_name(path.name + ".claim"), url=f"sqlite:///{path}")
    return Location(folder / "study.claim", url=storage)


def open_storage(location: Location) -> BaseStorage:
    """Open the storage, making it first where it is not there; safe for processes that start together.

    Raises:
        UserError: It cannot be reached, or was written by another version.
    """
    try:
        location.lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(location.lock) + ".open", poll_interval=_POLL_SECONDS):
            if location.journal is not None:
                location.journal.parent.mkdir(parents=True, exist_ok=True)
                lock = KernelLock(location.journal)
                _drop_torn_line(location.journal, lock)
                return JournalStorage(JournalFileBackend(str(location.journal), lock_obj=lock))
            return _open_database(str(location.url))
    except ModuleNotFoundError as error:
        raise UserError(
            f"sweep.storage={location} needs the Python package {error.name!r}",
            f"pip install {_DRIVERS.get(str(error.name), str(error.name))}",
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"sweep.storage={location} cannot be read: {_first_line(error)}", _OTHER) from error


@contextlib.contextmanager
def exclusively(location: Location, storage: BaseStorage) -> Iterator[None]:
    """Hold the study for oneself while choosing a trial: by file, and on a server by the server's own lock.

    The kernel, or the server, lets go of it when a process dies.
    """
    with FileLock(str(location.lock), poll_interval=_POLL_SECONDS), _server_lock(storage):
        yield


class KernelLock(BaseJournalFileLock):
    """Guards a journal with the kernel's file lock, so that a process killed while writing blocks nobody.

    Optuna's own lock files outlive their process, and the next one then waits half a minute.
    """

    def __init__(self, journal: Path) -> None:
        self._lock = FileLock(str(journal) + ".lock", poll_interval=_POLL_SECONDS)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


_DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
_OTHER = "check the path or URL, or start anew with another sweep.storage"


def _drop_torn_line(journal: Path, lock: KernelLock) -> None:
    """A process killed while writing leaves half a line, onto which the next would write: cut it off."""
    if not journal.exists():
        return
    lock.acquire()
    try:
        with journal.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            keep = end
            while keep and not _ends_line(file, keep):
                keep -= 1
            if keep != end:
                file.truncate(keep)
    finally:
        lock.release()


def _ends_line(file: Any, position: int) -> bool:
    file.seek(position - 1)
    return bool(file.read(1) == b"\n")


def _open_database(url: str) -> RDBStorage:
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    waiting = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return RDBStorage(url, engine_kwargs=waiting)
    except ArgumentError as error:
        raise UserError(f"sweep.storage cannot be used: {_first_line(error)}", _OTHER) from error
    except SQLAlchemyError as error:
        raise UserError(f"sweep.storage cannot be reached: {_first_line(error)}", _OTHER) from error
    except (ImportError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError):
            raise
        raise UserError(
            f"sweep.storage was written by another version of Optuna than {optuna.__version__}: {_first_line(error)}",
            "install the version that wrote it, or give another sweep.storage",
        ) from error


@contextlib.contextmanager
def _server_lock(storage: BaseStorage) -> Iterator[None]:
    engine = storage.engine if isinstance(storage, RDBStorage) else None
    statements = _LOCKS.get(engine.dialect.name) if engine is not None else None
    if engine is None or statements is None:
        yield
        return
    with engine.connect() as connection:
        _run(connection, statements[0])
        try:
            yield
        finally:
            _run(connection, statements[1])


_KEY = zlib.crc32(b"deepfake-sweeps")
_LOCKS = {
    "postgresql": (f"SELECT pg_advisory_lock({_KEY})", f"SELECT pg_advisory_unlock({_KEY})"),
    "mysql": (f"SELECT GET_LOCK('{_KEY}', -1)", f"SELECT RELEASE_LOCK('{_KEY}')"),
}


def _run(connection: Connection, statement: str) -> None:
    from sqlalchemy import text

    connection.execute(text(statement))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
