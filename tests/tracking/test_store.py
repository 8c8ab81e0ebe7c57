from __future__ import annotations

import multiprocessing
import os
import resource
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from deepfake.errors import UserError
from deepfake.hydra_app import compose_run
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.store import connect, experiment_id, locate

_OPEN_AND_WRITE = """
import sys
from pathlib import Path
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import track
from deepfake.tracking.store import locate
with track(locate(TrackingOptions(), Path(sys.argv[1])), "same", sys.argv[2]) as run:
    run.params({"a": 1})
"""


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.usefixtures("bare")
def test_default_is_an_absolute_sqlite_file_below_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(TrackingOptions(), Path("outputs")).uri == f"sqlite:///{tmp_path}/outputs/mlflow.db"


def test_environment_names_the_store_unless_the_option_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-the-environment:5000")
    assert locate(TrackingOptions(), tmp_path).uri == "http://from-the-environment:5000"
    assert locate(TrackingOptions(uri="http://given:5000"), tmp_path).uri == "http://given:5000"


def test_artifacts_of_a_given_sqlite_file_lie_beside_it(tmp_path: Path) -> None:
    store = locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/other/runs.db"), tmp_path / "outputs")
    assert store.artifacts == tmp_path / "other" / "artifacts"


def test_server_decides_about_its_artifacts(tmp_path: Path) -> None:
    store = locate(TrackingOptions(uri="https://server"), tmp_path)
    assert store.artifacts is None


def test_ui_command_can_be_pasted_into_a_shell_and_finds_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(tmp_path))
    uri = f"sqlite:///{tmp_path}/a b.db"
    words = shlex.split(locate(TrackingOptions(uri=uri), tmp_path).ui_command("x y"))
    assert words[-3:-1] == ["ui", "x y"]
    assert compose_run([words[-1]]).tracking.uri == uri


@pytest.mark.usefixtures("bare")
def test_ui_command_names_no_place_that_is_found_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(tmp_path))
    assert shlex.split(locate(TrackingOptions(), tmp_path).ui_command())[-1] == "ui"
    elsewhere = tmp_path / "elsewhere"
    assert locate(TrackingOptions(), elsewhere).ui_command().endswith(f"ui paths.outputs={elsewhere}")


def test_ui_command_hides_the_password(tmp_path: Path) -> None:
    assert "secret" not in locate(TrackingOptions(uri="postgresql://me:secret@host/db"), tmp_path).ui_command()


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "sqlite://", "ftp://host"])
def test_what_mlflow_cannot_write_to_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no store"):
        locate(TrackingOptions(uri=uri), tmp_path)


def test_silent_server_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not answer"):
        connect(locate(TrackingOptions(uri="http://127.0.0.1:9"), tmp_path))


def test_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database at all, but long enough to look like a file of something")
    with pytest.raises(UserError, match="cannot open the tracking store"):
        connect(locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/mlflow.db"), tmp_path))


def stopped_halfway(database: Path, number: int) -> int | None:
    """How a process ends that a signal meets between MLflow's first tables and its migrations."""

    def make() -> None:
        import mlflow.store.db.utils

        signal.signal(signal.SIGINT, signal.default_int_handler)
        mlflow.store.db.utils._upgrade_db = lambda engine: os.kill(os.getpid(), number)
        connect(locate(TrackingOptions(uri=f"sqlite:///{database}"), database.parent))

    child = multiprocessing.get_context("fork").Process(target=make)
    child.start()
    child.join(60)
    return child.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_store_whose_making_was_stopped_is_made_by_the_next(client, tmp_path: Path, number: int) -> None:
    assert stopped_halfway(tmp_path / "mlflow.db", number) != 0
    assert not (tmp_path / "mlflow.db").exists()
    connect(locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/mlflow.db"), tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "artifacts", "mlflow.db"]


def left_by_older_code(database: Path, run: bool = False) -> None:
    """A database made in place, its making stopped before the migrations."""
    import sqlalchemy
    from mlflow.store.db.base_sql_model import Base  # noqa: F401
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    engine = sqlalchemy.create_engine(f"sqlite:///{database}")
    InitialBase.metadata.create_all(engine)
    engine.dispose()
    with sqlite3.connect(database) as connection:
        # As far as a migration that makes a table and was stopped before it was written down.
        connection.execute("CREATE TABLE datasets (name TEXT)")
        if run:
            connection.execute("INSERT INTO runs (run_uuid, user_id, experiment_id) VALUES ('a', 'me', 0)")
    connection.close()


@pytest.mark.slow
def test_what_older_code_left_unfinished_is_set_aside_and_said(
    client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left_by_older_code(tmp_path / "mlflow.db")
    (tmp_path / "mlflow.db.unfinished").touch()
    store = locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/mlflow.db"), tmp_path)
    assert experiment_id(connect(store), store, "e")
    assert (tmp_path / "mlflow.db.unfinished-2").stat().st_size > 0
    assert "holds no run: made anew" in capsys.readouterr().err


def test_an_unfinished_database_with_a_run_in_it_is_left_alone(client, tmp_path: Path) -> None:
    left_by_older_code(tmp_path / "mlflow.db", run=True)
    with pytest.raises(UserError, match="cannot open the tracking store"):
        connect(locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/mlflow.db"), tmp_path))
    assert [path.name for path in tmp_path.glob("mlflow.db*")] == ["mlflow.db"]


@pytest.mark.slow
def test_a_file_of_no_length_is_no_database_yet(client, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    connect(locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/mlflow.db"), tmp_path))
    assert [path.name for path in tmp_path.glob("mlflow.db*")] == ["mlflow.db"]


def _fail_for_want_of_room(folder: Path, told: multiprocessing.Queue[str]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        connect(locate(TrackingOptions(uri=f"sqlite:///{folder}/mlflow.db"), folder))
    except UserError as error:
        told.put(str(error))


def test_no_room_for_the_store_is_told_and_leaves_nothing(client, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    child = context.Process(target=_fail_for_want_of_room, args=(tmp_path, told))
    child.start()
    text = told.get(timeout=60)
    child.join(60)
    assert "cannot write the tracking store" in text
    assert "make room" in text
    assert list(tmp_path.glob("*mlflow.db*")) == [tmp_path / ".mlflow.db.lock"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["it's", 'so "called"', "$x%20"])
def test_a_store_is_made_in_a_folder_of_any_name(client, name: str, tmp_path: Path) -> None:
    store = locate(TrackingOptions(), tmp_path / name)
    assert experiment_id(connect(store), store, "e")


def test_a_path_too_long_for_sqlite_is_told_at_once(client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it was tried again"))
    long = tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 200)
    with pytest.raises(UserError, match="cannot open the tracking store") as told:
        connect(locate(TrackingOptions(), long))
    assert "shorter path" in told.value.hint


def test_experiment_is_made_once(store, client, experiment: str) -> None:
    assert experiment_id(client, store, experiment) == experiment_id(client, store, experiment)


def test_deleted_experiment_says_how_to_restore_it(store, client, experiment: str) -> None:
    client.delete_experiment(experiment_id(client, store, experiment))
    with pytest.raises(UserError, match="restore"):
        experiment_id(client, store, experiment)


@pytest.mark.slow
@pytest.mark.usefixtures("bare")
def test_processes_starting_at_once_all_get_their_run(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", _OPEN_AND_WRITE, str(tmp_path), f"run{i}"] for i in range(4)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    failures = [process.communicate()[1] for process in started if process.wait() != 0]
    assert failures == []
    store = locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/mlflow.db"), tmp_path)
    client = connect(store)
    runs = client.search_runs([experiment_id(client, store, "same")])
    assert sorted(run.info.run_name for run in runs) == ["run0", "run1", "run2", "run3"]


@pytest.mark.parametrize("name", ["per%cent %41", "what?x=1", "ha#sh", "${oc.env:HOME} ,[c]"])
def test_a_folder_may_be_named_as_a_uri_is_not(name: str, tmp_path: Path) -> None:
    store = locate(TrackingOptions(), tmp_path / name)
    assert store.database == tmp_path / name / "mlflow.db"
    assert locate(TrackingOptions(uri=store.uri), tmp_path) == store
    store.database.parent.mkdir()
    made = sqlite3.connect(store.database)
    made.execute("CREATE TABLE here (x)")
    made.close()
    assert inspect(create_engine(store.uri)).get_table_names() == ["here"]


def test_a_database_that_refuses_is_told_without_retries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it was tried again"))
    store = locate(TrackingOptions(uri="postgresql+psycopg://bob:S3cret@127.0.0.1:1/db"), tmp_path)
    with pytest.raises(UserError, match=r"does not answer: .*refused") as told:
        connect(store)
    assert "S3cret" not in str(told.value)


def test_a_database_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake.tracking.store._SECONDS", 0.2)
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "60")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"postgresql+psycopg://bob@127.0.0.1:{silent.getsockname()[1]}/db"
        with pytest.raises(UserError, match=r"no answer in 0\.4 s"):
            connect(locate(TrackingOptions(uri=uri), tmp_path))


def test_a_missing_driver_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    with pytest.raises(UserError, match=r"needs a driver that is not installed: .*MySQLdb"):
        connect(locate(TrackingOptions(uri="mysql://bob@127.0.0.1:1/db"), tmp_path))
