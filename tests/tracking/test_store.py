from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from deepfake.errors import UserError
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
    assert (store.artifacts, store.ui_command) == (None, "https://server")


def test_ui_command_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    store = locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/a b.db"), tmp_path)
    words = shlex.split(store.ui_command)
    assert words[1:4] == ["-m", "mlflow", "ui"]
    assert words[-2:] == ["--backend-store-uri", f"sqlite:///{tmp_path}/a b.db"]


def test_ui_command_hides_the_password(tmp_path: Path) -> None:
    assert "secret" not in locate(TrackingOptions(uri="postgresql://me:secret@host/db"), tmp_path).ui_command


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
