"""Where runs are remembered: a tracking URI becomes a store that several processes may open at the same instant.

Knows MLflow's stores, not what is written into them.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import shlex
import shutil
import sqlite3
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from deepfake.databases import limit_answers
from deepfake.errors import UserError, masked
from deepfake.installation import project_folder, typed_command
from deepfake.tracking.options import TrackingOptions

if TYPE_CHECKING:
    from mlflow import MlflowClient


def local_folder(artifact_uri: str) -> Path | None:
    """The folder behind an artifact URI, None where the artifacts lie elsewhere than on a local disk."""
    parts = urlsplit(artifact_uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(artifact_uri) if not parts.scheme else None


_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///(?P<path>[^?]+)")
_DATABASES = ("postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
#: Seconds that a server has for one answer: while somebody trains, and where somebody asks and can wait.
_SECONDS, _LOOKING = 10, 60
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_ROOM = "make room on its disk, or set tracking.uri to a place on another"
#: Beyond so many bytes sqlite opens no path, the journal's name beside it included.
_LONGEST_PATH = 500
#: What sqlite keeps beside a database while it is written.
_BESIDE = ("-journal", "-wal", "-shm")
#: Tables without which a database holds nothing that anybody would miss.
_PRECIOUS = {"runs", "registered_models"}


@dataclass(frozen=True)
class Store:
    """A tracking store, found but not opened. Small and picklable: worker processes get it as it is.

    Attributes:
        uri: What MLflow is given; absolute, so that it means the same from every working directory.
        artifacts: The folder below which new experiments keep their files; None where a server decides.
        database: The sqlite file, None for anything else.
        places: What another command is to be given so that it finds this store; nothing where it does by itself.
    """

    uri: str
    artifacts: Path | None
    database: Path | None
    places: tuple[str, ...] = field(default=(), compare=False)

    @property
    def remote(self) -> bool:
        """Whether it is on the other side of a network, where it may be slow or gone."""
        return self.database is None

    @property
    def serves(self) -> bool:
        """Whether it is a tracking server, which can be named without being asked."""
        return self.uri.split(":", 1)[0] in _SERVERS

    def ui_command(self, *reference: str) -> str:
        """What to type to look at it in the browser: at a sweep or a run of it, or at the newest."""
        return typed_command("ui", *reference, *self.places)


def locate(options: TrackingOptions, outputs: Path) -> Store:
    """The store that the options name, else MLFLOW_TRACKING_URI, else ``<outputs>/mlflow.db``.

    Args:
        options: ``options.uri`` may be a sqlite or other database URL, or a server's address.
        outputs: The project's output folder; artifacts of databases lie below it or beside a sqlite file.

    Raises:
        UserError: A plain folder or a scheme that MLflow no longer writes to.
    """
    outputs = outputs.absolute()
    uri = options.uri or os.environ.get("MLFLOW_TRACKING_URI") or _sqlite_uri(outputs / "mlflow.db")
    usual = Path(os.environ.get("DEEPFAKE_OUTPUTS") or project_folder() / "outputs").expanduser().absolute()
    places: tuple[str, ...] = () if outputs == usual else (_typed("paths.outputs", str(outputs)),)
    places += () if options.uri is None else (_typed("tracking.uri", masked(uri)),)
    if match := _SQLITE.fullmatch(uri):
        database = Path(urllib.parse.unquote(match["path"])).expanduser().absolute()
        return Store(_sqlite_uri(database), database.parent / "artifacts", database, places)
    scheme = uri.split(":", 1)[0].split("+", 1)[0]
    if scheme in _DATABASES:
        return Store(uri, outputs / "artifacts", None, places)
    if scheme in _SERVERS:
        return Store(uri, None, None, places)
    raise UserError(
        f"tracking.uri={uri!r} is no store that runs can be written to",
        "give sqlite:////absolute/path/mlflow.db, postgresql://user@host/name, or a server's http:// address",
    )


def connect(store: Store) -> MlflowClient:
    """Open a store, making it first where it does not exist yet.

    MLflow creates a database by running its migrations; two processes doing so at once corrupt one another,
    so opening is done one process at a time. A sqlite file is made beside its place and moved there whole: what
    stops a process in between leaves nothing that the next one would stumble over.

    Raises:
        UserError: The server does not answer within seconds, its driver is not installed, the disk is full, or the
            database is of another MLflow version or no database.
    """
    if store.serves:
        _check_answers(store.uri)
    elif store.database is None:
        _check_opens(store.uri)
    quiet_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    with _opening_lock(store):
        try:
            if store.database is not None:
                _check_file(store.database)
            if store.database is not None and _is_blank(store.database):
                _make(store.database)
            try:
                return _opened(store)
            except (MlflowException, SQLAlchemyError) as error:
                if store.database is None or not _is_unfinished(store.database, error):
                    raise
                _set_aside(store.database)
                _make(store.database)
                return _opened(store)
        except (MlflowException, SQLAlchemyError) as error:
            raise _explained(store, error) from error


def experiment_id(client: MlflowClient, store: Store, name: str) -> str:
    """The id of the experiment of that name, made where there is none.

    Raises:
        UserError: The experiment was deleted, which MLflow keeps apart from not existing; or the disk is full.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None
        if store.artifacts is not None:
            location = (store.artifacts / re.sub(r"[^\w.+-]+", "_", name)).as_uri()
        try:
            # Without the tag MLflow guesses on each visit whether the runs are of a language model.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, artifact_location=location, tags=kind))
        except MlflowException as error:
            if (full := without_room(store, error)) is not None:
                raise full from error
            found = client.get_experiment_by_name(name)
            if found is None:
                raise UserError(
                    f"cannot make the experiment {name!r}: {error.message}", "choose another name"
                ) from error
    if found.lifecycle_stage == "deleted":
        command = f"{_python()} -m mlflow experiments restore --experiment-id {found.experiment_id}"
        raise UserError(
            f"the experiment {name!r} was deleted in {store.uri}",
            f"set tracking.experiment to another name, or restore it: MLFLOW_TRACKING_URI={store.uri} {command}",
        )
    return str(found.experiment_id)


def quiet_mlflow() -> None:
    """Keep MLflow from sending usage data and from narrating its migrations and copies; call before importing it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Its own are two minutes, seven times over, for each call; those who call know what to do without an answer.
    os.environ.setdefault(_TIMEOUT, str(_LOOKING))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(_SECONDS))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # It prints, with its traceback, what it raises as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def answer_soon() -> None:
    """Let a server have seconds for each answer from here on, as while a run is logged."""
    if os.environ.get(_TIMEOUT, str(_LOOKING)) == str(_LOOKING):
        os.environ[_TIMEOUT] = str(_SECONDS)


def _opening_lock(store: Store) -> AbstractContextManager[object]:
    if store.database is None:
        return nullcontext()
    try:
        store.database.parent.mkdir(parents=True, exist_ok=True)
        (store.database.parent / "artifacts").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the tracking store {store.database}: {error.strerror}",
            "set tracking.uri to a place you own",
        ) from error
    return FileLock(store.database.with_name(f".{store.database.name}.lock"))


def _sqlite_uri(database: Path) -> str:
    """The URI of a file; the characters that mean something in a URI are escaped, as SQLAlchemy reads them."""
    return f"sqlite:///{str(database).replace('%', '%25').replace('?', '%3F')}"


def _opened(store: Store) -> MlflowClient:
    from mlflow import MlflowClient

    if store.database is None and not store.serves:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        # The one that the client is about to use.
        limit_answers(SqlAlchemyStore._get_or_create_engine(store.uri))
    client = MlflowClient(store.uri)
    client.search_experiments(max_results=1)
    return client


def _make(database: Path) -> None:
    """Make a database beside its place, and move it there once it is whole and on disk."""
    partial = _partial(database)
    # What a killed process left of it. The lock says that no process is writing it now.
    _remove(partial)
    uri = _sqlite_uri(partial)
    try:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        # As a URI, whose escapes hold neither quotes nor colons: MLflow writes it into a statement as it is.
        SqlAlchemyStore(uri, (database.parent / "artifacts").as_uri())
        _let_go(uri)
        _sync(partial)
        # A journal that belongs to what lay here before would be played back into the new file.
        for ending in _BESIDE:
            database.with_name(database.name + ending).unlink(missing_ok=True)
        partial.replace(database)
        _sync(database.parent)
    except OSError as error:
        raise UserError(f"cannot write the tracking store {database}: {error.strerror}", _ROOM) from error
    finally:
        _let_go(uri)
        _remove(partial)


def _partial(database: Path) -> Path:
    """Where a database is made."""
    return database.with_name(f".{database.name}.partial")


def _let_go(uri: str) -> None:
    """Close MLflow's connections to a file that is about to be moved; they would go on using it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = SqlAlchemyStore._engine_map.pop(uri, None)
    if engine is not None:
        engine.dispose()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(database: Path) -> None:
    for ending in ("", *_BESIDE):
        database.with_name(database.name + ending).unlink(missing_ok=True)


def _is_blank(database: Path) -> bool:
    """Whether there is no database yet: no file, or one of no length, which sqlite makes when it is first opened."""
    return not database.exists() or database.stat().st_size == 0


def _is_unfinished(database: Path, error: Exception) -> bool:
    """Whether a database that does not open is one whose making was stopped, so that it cannot hold a run."""
    if "Can't locate revision" in str(error):
        return False
    try:
        with closing(sqlite3.connect(database)) as connection:
            names = {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            # The names are constants of ours.
            counts = (f"SELECT COUNT(*) FROM {name}" for name in names & _PRECIOUS)  # noqa: S608
            held = [connection.execute(count).fetchone() for count in counts]
            # MLflow makes these first; another program's database does not have them.
            ours = not names or bool(names & {"alembic_version", "experiments"})
            return ours and not any(count for (count,) in held)
    except sqlite3.Error:
        return False


def _set_aside(database: Path) -> None:
    _let_go(_sqlite_uri(database))
    aside = database.with_name(f"{database.name}.unfinished")
    number = 1
    while aside.exists():
        number += 1
        aside = database.with_name(f"{database.name}.unfinished-{number}")
    # Its journal belongs to it, and would be played back into the new file.
    for ending in _BESIDE:
        with suppress(FileNotFoundError):
            database.with_name(database.name + ending).rename(aside.with_name(aside.name + ending))
    database.rename(aside)
    print(
        f"warning: {database} was stopped while it was being made and holds no run: made anew, the old file is {aside}",
        file=sys.stderr,
    )


def _check_file(database: Path) -> None:
    """Open a file with sqlite alone, which says at once what MLflow tries again for minutes."""
    try:
        # One that is yet to be made is tried where it will be made: under its own name it appears whole.
        file, mode = (_partial(database), "rwc") if _is_blank(database) else (database, "rw")
        with closing(sqlite3.connect(f"{file.as_uri()}?mode={mode}", uri=True)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:
        if "unable to open" not in str(error):
            return  # busy, or full: those who write tell of it
        raise UserError(
            f"cannot open the tracking store {database}: {error}",
            "set tracking.uri or paths.outputs to a place you own, with a shorter path"
            if len(os.fsencode(database)) > _LONGEST_PATH
            else "set tracking.uri to a place you own",
        ) from error
    except sqlite3.DatabaseError:
        return  # no database: MLflow says so at once


def _check_answers(uri: str) -> None:
    # MLflow itself retries a silent server for minutes before it says so.
    try:
        urllib.request.urlopen(_request(uri), timeout=_SECONDS).close()  # noqa: S310 - http or https, else no server
    except urllib.error.HTTPError:
        return
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"the tracking server {uri} does not answer: {reason}",
            "start it, or leave tracking.uri and MLFLOW_TRACKING_URI unset to write to outputs/mlflow.db",
        ) from error


def _check_opens(uri: str) -> None:
    """Connect to a database once: MLflow itself tries for minutes, whatever is wrong."""
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(_SECONDS))
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        engine = create_engine(uri)
    except ImportError as error:
        hint = "install it, or another and name that: postgresql+psycopg:// (psycopg), mysql+pymysql:// (pymysql)"
        raise UserError(f"tracking.uri={uri} needs a driver that is not installed: {error}", hint) from error
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise UserError(f"tracking.uri={uri} is no address of a database: {error}", "check it") from error
    failed: list[Exception | None] = []

    def attempt() -> None:
        try:
            engine.connect().close()
            failed.append(None)
        except Exception as error:
            failed.append(error)

    # Not every driver has a time limit, nor each of its steps; nobody waits for this thread.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(2 * _SECONDS)
    if failed == [None]:
        engine.dispose()
        return
    why = str(failed[0]).splitlines()[0] if failed else f"no answer in {2 * _SECONDS} s"
    raise UserError(
        f"the tracking database {uri} does not answer: {why}",
        "start it, check user and password, or leave tracking.uri unset to write to outputs/mlflow.db",
    ) from (failed[0] if failed else None)


def _typed(key: str, value: str) -> str:
    """An override in Hydra's grammar."""
    if re.fullmatch(r"[\w./:@%+~*-]+", value):
        return f"{key}={value}"
    quoted = value.replace("'", "\\'")
    return f"{key}='{quoted}'"


def _request(uri: str) -> urllib.request.Request:
    """A request as MLflow makes it: a user and password before the host are a header, not part of the address."""
    parts = urllib.parse.urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())  # noqa: S310 - as above
    if at:
        token = base64.b64encode(urllib.parse.unquote(user).encode()).decode("ascii")
        request.add_header("Authorization", f"Basic {token}")
    return request


def without_room(store: Store, error: Exception) -> UserError | None:
    """The mistake behind an error of a database whose disk is full; None for any other error."""
    said = next((words for words in ("database or disk is full", "disk I/O error") if words in str(error)), None)
    if said is None:
        return None
    where, room = store.uri, ""
    if store.database is not None:
        where = str(store.database)
        with suppress(OSError):
            room = f" ({shutil.disk_usage(store.database.parent).free / 1e6:.1f} MB free)"
    return UserError(f"cannot write the tracking store {where}: {said}{room}", _ROOM)


def _explained(store: Store, error: Exception) -> UserError:
    text = str(error)
    if (full := without_room(store, error)) is not None:
        return full
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        hint = f"back the file up, then run {_python()} -m mlflow db upgrade {shlex.quote(store.uri)}"
        if "Can't locate revision" in text:
            hint = "install the MLflow that wrote it, or set tracking.uri to a new file"
        return UserError(f"{store.uri} was written by another version of MLflow", hint)
    return UserError(f"cannot open the tracking store {store.uri}: {text}", "check tracking.uri, or choose a new file")


def _python() -> str:
    return shlex.quote(sys.executable)
