"""Where a study is remembered: a journal file, sqlite, or any database server, opened safely by many at once.

What is written together reaches the storage together. Knows Optuna's storages and their locks; nothing of trials.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage

from deepfake.databases import ANSWER_SECONDS, limit_answers
from deepfake.errors import UserError, first_line
from deepfake.sweeping.journal import POLL_SECONDS, Journal, KernelLock, drop_torn_line
from deepfake.sweeping.outage import is_outage

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.orm import Session

#: In a sweep's folder: which storage holds its study.
PLACE = "storage.json"
#: What a study's file in its folder is called, and the word for it in options.
WORDS = {"study.journal": "journal", "study.db": "sqlite"}
_JOURNAL_ENDINGS = (".journal", ".log")
_SQLITE_ENDINGS = (".db", ".sqlite", ".sqlite3")
_DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
_OTHER = "check the path or URL, or start anew with another sweep.storage"
#: Between two questions for a server's lock.
_LOCK_SECONDS = 0.05
_KEY = zlib.crc32(b"deepfake-sweeps")
_LOCKS = {
    "postgresql": (f"SELECT pg_try_advisory_lock({_KEY})", f"SELECT pg_advisory_unlock({_KEY})"),
    "mysql": (f"SELECT GET_LOCK('{_KEY}', 0)", f"SELECT RELEASE_LOCK('{_KEY}')"),
}


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

        url = make_url(str(self.url))
        if url.get_backend_name() == "sqlite" and not url.query:
            # As the file is called: only some of its characters would be encoded.
            return f"{url.drivername}:///{url.database}"
        return url.render_as_string(hide_password=True)

    def name_in(self, folder: Path) -> str:
        """The same for the same place, however it is reached: no password, and files of the folder by their names."""
        from sqlalchemy.engine import make_url

        url = None if self.journal is not None else make_url(str(self.url))
        if url is not None and url.get_backend_name() != "sqlite":
            port = "" if url.port is None else f":{url.port}"
            return f"{url.get_backend_name()}://{url.host or ''}{port}/{url.database or ''}"
        path = self.journal or Path(str(url.database if url else ""))
        return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


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
        with FileLock(str(location.lock) + ".open", poll_interval=POLL_SECONDS):
            if location.journal is not None:
                location.journal.parent.mkdir(parents=True, exist_ok=True)
                lock = KernelLock(location.journal)
                drop_torn_line(location.journal, lock)
                return _replayed(location.journal, lock)
            return _open_database(str(location.url))
    except ModuleNotFoundError as error:
        raise _without_driver(location, error) from error
    except (OSError, ValueError) as error:
        raise UserError(f"sweep.storage={location} cannot be read: {first_line(error)}", _OTHER) from error


def open_existing(location: Location) -> BaseStorage:
    """Open a storage that is there to look at it: nothing is made, locked or mended.

    Raises:
        UserError: There is none, it cannot be reached, or was written by another version.
    """
    try:
        if location.journal is not None:
            if not location.journal.is_file():
                raise FileNotFoundError(f"there is no file {location.journal}")
            return _replayed(location.journal, KernelLock(location.journal))
        return _open_database(str(location.url), make=False)
    except ModuleNotFoundError as error:
        raise _without_driver(location, error) from error
    except (OSError, ValueError) as error:
        raise UserError(f"sweep.storage={location} cannot be read: {first_line(error)}", _OTHER) from error


def _without_driver(location: Location, error: ModuleNotFoundError) -> UserError:
    return UserError(
        f"sweep.storage={location} needs the Python package {error.name!r}",
        f"pip install {_DRIVERS.get(str(error.name), str(error.name))}",
    )


def _replayed(journal: Path, lock: KernelLock) -> JournalStorage:
    try:
        return JournalStorage(Journal(journal, lock))
    except OSError:
        raise
    except Exception as error:
        # Optuna does what the lines say, and whatever is wrong in one is an exception of its own.
        raise UserError(
            f"{journal} is damaged: {type(error).__name__}: {first_line(error)}",
            "restore it, or begin another study with sweep.name=<new name>",
        ) from error


def open_again(location: Location) -> BaseStorage:
    """Open a storage that was open a moment ago; what may be but an outage is raised as what it is."""
    try:
        return open_storage(location)
    except UserError as error:
        if error.__cause__ is not None and is_outage(error.__cause__):
            raise error.__cause__ from None
        raise


def check_place(location: Location, folder: Path) -> None:
    """Refuse another storage for a study whose runs lie in this folder: both would number their runs alike.

    Raises:
        UserError: The folder's study is kept elsewhere.
    """
    recorded = recorded_place(folder)
    if recorded is not None and recorded != location.name_in(folder):
        raise UserError(
            f"the study of {folder} is kept in {recorded}, and sweep.storage={location} is another",
            f"go on with it by sweep.storage={WORDS.get(recorded, recorded)}, "
            "or begin another with sweep.name=<new name>; "
            f"if you have copied the study there, delete {folder / PLACE} and the old file",
        )


def recorded_place(folder: Path) -> str | None:
    """Where a folder says that its study is kept, as :meth:`Location.name_in` names it; None where it says nothing."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((folder / PLACE).read_text(encoding="utf-8"))["storage"])
    # A folder from before that file was written.
    return next((name for name in WORDS if (folder / name).is_file()), None)


def at_place(recorded: str, folder: Path) -> Location:
    """The storage that a folder names; one on a server is named without a user, so its folder alone does not do."""
    return locate(WORDS.get(recorded, str(folder / recorded)), folder)


def stored_at(folder: Path, storage: str | None) -> Location | None:
    """Where the study of a sweep's folder is kept; None where it has none, as a grid.

    Args:
        folder: The sweep's; need not exist.
        storage: The storage, where it was typed.

    Raises:
        UserError: It is on a server, which only its address with user and password leads to, or not where was typed.
    """
    if storage is not None:
        location = locate(storage, folder)
        check_place(location, folder)
        return location
    recorded = recorded_place(folder)
    if recorded is None:
        return None
    if "://" in recorded:
        raise UserError(
            f"the study of {folder} is kept in {recorded}, which its folder names without a user",
            "say how to reach it: --storage postgresql://user@host/db",
        )
    return at_place(recorded, folder)


def record_place(location: Location, folder: Path) -> None:
    """Write down where the study of a folder is kept, once.

    Raises:
        UserError: Another process was faster, with another storage.
    """
    if (folder / PLACE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial_file = folder / f".{uuid.uuid4().hex[:8]}.{PLACE}"
    partial_file.write_text(json.dumps({"storage": location.name_in(folder)}) + "\n", encoding="utf-8")
    try:
        # Fails where there is one by now.
        os.link(partial_file, folder / PLACE)
    except OSError:
        if not (folder / PLACE).exists():
            # A file system without links.
            partial_file.replace(folder / PLACE)
        check_place(location, folder)
    finally:
        partial_file.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusively(location: Location, storage: BaseStorage) -> Iterator[None]:
    """While entered, no other process chooses a trial: by a lock on a file, and on a server by the server's own.

    The kernel, or the server, lets go of it when a process dies.
    """
    with FileLock(str(location.lock), poll_interval=POLL_SECONDS), _server_lock(storage):
        yield


@contextlib.contextmanager
def together(storage: BaseStorage) -> Iterator[None]:
    """All that this thread writes meanwhile reaches the storage at once: one append to a journal, one transaction.

    No other process writes to a journal in between, so that what is read inside still holds when it is written. Not
    to be nested, and without other threads that write. After an exception a database has nothing of the block.
    """
    if isinstance(storage, JournalStorage) and isinstance(storage._backend, Journal):
        with storage._backend.together():
            yield
    elif isinstance(storage, RDBStorage):
        with _one_transaction(storage):
            yield
    else:
        yield


def _open_database(url: str, make: bool = True) -> RDBStorage:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        where = make_url(url)
        if not make and where.get_backend_name() == "sqlite" and not Path(str(where.database)).is_file():
            raise FileNotFoundError(f"there is no file {where.database}")
        storage = RDBStorage(url, engine_kwargs=_waiting(where), skip_table_creation=not make)
        limit_answers(storage.engine)
        return storage
    except ArgumentError as error:
        raise UserError(f"sweep.storage cannot be used: {first_line(error)}", _OTHER) from error
    except SQLAlchemyError as error:
        raise UserError(f"sweep.storage cannot be reached: {first_line(error)}", _OTHER) from error
    except (ImportError, RuntimeError) as error:
        # Optuna reports a driver that is not installed by an ImportError of its own.
        missing = next((one for one in (error, error.__cause__) if isinstance(one, ModuleNotFoundError)), None)
        if missing is not None:
            raise missing from None
        raise UserError(
            f"sweep.storage was written by another version of Optuna than {optuna.__version__}: {first_line(error)}",
            "install the version that wrote it, or give another sweep.storage",
        ) from error


def _waiting(url: URL) -> dict[str, Any]:
    """How long an engine waits to be let in."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    if url.get_backend_name() != "postgresql":
        return {"pool_pre_ping": True}
    limits: dict[str, Any] = {} if "connect_timeout" in url.query else {"connect_timeout": ANSWER_SECONDS}
    # What it is for is asked for before any limit holds, and no study needs it.
    known = url.get_driver_name() in ("psycopg", "psycopg2")
    return {"pool_pre_ping": True, **({"connect_args": limits, "use_native_hstore": False} if known else {})}


@contextlib.contextmanager
def _server_lock(storage: BaseStorage) -> Iterator[None]:
    engine = storage.engine if isinstance(storage, RDBStorage) else None
    statements = _LOCKS.get(engine.dialect.name) if engine is not None else None
    if engine is None or statements is None:
        yield
        return
    from sqlalchemy.exc import SQLAlchemyError

    with engine.connect() as connection:
        # Asked for again and again: who waited in a queue of the server's would look like one that gets no answer.
        while not _run(connection, statements[0]):
            time.sleep(_LOCK_SECONDS)
        try:
            yield
        except (SQLAlchemyError, StorageInternalError, KeyboardInterrupt):
            # The server lets go with the connection; one that is away would not answer to this either.
            connection.invalidate()
            raise
        except BaseException:
            _let_go(connection, statements[1])
            raise
        _let_go(connection, statements[1])


def _let_go(connection: Connection, statement: str) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _run(connection, statement)
    except SQLAlchemyError:
        # What was done inside is done.
        connection.invalidate()


@contextlib.contextmanager
def _one_transaction(storage: RDBStorage) -> Iterator[None]:
    """Lend the storage's methods one session of this thread, whose commits wait for the end."""
    usual = storage.scoped_session
    session: Session = usual()
    thread = threading.get_ident()
    commit, close = session.commit, session.close
    session.commit, session.close = session.flush, lambda: None  # type: ignore[method-assign]

    def lend() -> Session:
        return session if threading.get_ident() == thread else usual()

    storage.scoped_session = lend  # type: ignore[assignment]
    try:
        yield
        commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        storage.scoped_session = usual
        session.commit, session.close = commit, close  # type: ignore[method-assign]
        session.close()


def _run(connection: Connection, statement: str) -> bool:
    from sqlalchemy import text

    return bool(connection.execute(text(statement)).scalar())
