"""Beyond one machine, tried on one: submitit's local executor, a real PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig

from deepfake.errors import UserError
from deepfake.sweeping.trial import current
from tests.sweeping import toy

STUDY = ["x=interval(-2,2)", "sweep.n_trials=5", "sweep.name=s", "epochs=1", "sweep.n_jobs=2"]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake.sweeping.conduct.draw_study", lambda *_: [])


@pytest.mark.skipif(find_spec("submitit") is None, reason="pip install -e '.[slurm]' brings submitit")
def test_workers_of_submitit_share_a_study(tmp_path: Path) -> None:
    local = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    jobs = toy.multirun(tmp_path, [*STUDY, *local]).jobs
    assert [(job.number, job.status) for job in jobs] == [(number, "completed") for number in range(5)]


@pytest.mark.skipif(find_spec("submitit") is None, reason="pip install -e '.[slurm]' brings submitit")
def test_a_plain_grid_runs_through_a_launcher(tmp_path: Path) -> None:
    jobs = toy.multirun(tmp_path, ["x=0,1", "epochs=1", "hydra/launcher=submitit_local"]).jobs
    assert [job.metrics["score"] for job in jobs] == [0.0, 1.0]


class Server:
    """A PostgreSQL server that can be taken away and brought back."""

    def __init__(self, folder: Path) -> None:
        initdb, postgres = shutil.which("initdb"), shutil.which("postgres")
        if initdb is None or postgres is None:
            pytest.skip("PostgreSQL is not installed: no initdb and postgres on the path")
        self._user = _server_user()
        for path in (folder, *folder.parents):
            if path.owner() == pwd.getpwuid(os.geteuid()).pw_name and path != Path("/tmp"):
                path.chmod(0o755)
        if self._user is not None:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        data = folder / "data"
        command = [initdb, "-D", data, "-A", "trust", "-U", "sweeps"]
        subprocess.run(command, check=True, capture_output=True, user=self._user)
        settings = ["-p", str(self._port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-k", str(folder)]
        self._command = [postgres, "-D", data, *settings]
        self.url = f"postgresql+psycopg://sweeps@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Come up, and return once it answers."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL, user=self._user)
        _wait_until_up(self._port, self._process)

    def stop(self) -> None:
        """Go, whoever is connected."""
        # Its fast way out; the polite one waits for connections that this process still holds.
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lives as long as these tests."""
    if find_spec("psycopg") is None:
        pytest.skip("pip install -e '.[postgresql]' brings the driver")
    found = Server(tmp_path_factory.mktemp("postgres"))
    found.start()
    yield found
    found.stop()


@pytest.fixture
def server(running_server: Server) -> str:
    """Its URL."""
    return running_server.url


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root: then its own user runs it."""
    if os.geteuid() != 0:
        return None
    if "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    return "postgres"


def _wait_until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    for _ in range(200):
        assert process.poll() is None, "the server ended at once"
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="sweeps", dbname="postgres").close()
        except psycopg.OperationalError:
            # Waits for the server through the server's own refusal, which takes its time.
            process_wait(process)
        else:
            return
    pytest.fail("the server did not come up")


def process_wait(process: subprocess.Popen[bytes]) -> None:
    """Up to a tenth of a second, less where the server ends."""
    try:
        process.wait(0.1)
    except subprocess.TimeoutExpired:
        return


def test_two_workers_share_a_study_on_postgresql(tmp_path: Path, server: str) -> None:
    jobs = toy.multirun(tmp_path, [*STUDY, f"sweep.storage={server}"]).jobs
    assert [(job.number, job.status) for job in jobs] == [(number, "completed") for number in range(5)]


def test_a_study_on_postgresql_goes_on(tmp_path: Path, server: str) -> None:
    study = [*STUDY[:1], "sweep.name=on", "epochs=1", f"sweep.storage={server}"]
    toy.multirun(tmp_path, [*study, "sweep.n_trials=2"])
    assert len(toy.multirun(tmp_path, [*study, "sweep.n_trials=3"]).jobs) == 3


def test_a_server_that_goes_away_in_mid_trial_is_waited_for(tmp_path: Path, running_server: Server) -> None:
    again: list[threading.Timer] = []

    def job(config: DictConfig) -> dict[str, Any]:
        trial = current()
        assert trial is not None
        for epoch in range(3):
            if (trial.number, epoch) == (1, 1):
                running_server.stop()
                again.append(threading.Timer(2.0, running_server.start))
                again[0].start()
            trial.report(epoch, {"score": float(epoch)})
        return {"metrics": {"score": 1.0}}

    study = [*STUDY[:2], "sweep.name=away", f"sweep.storage={running_server.url}", "sweep.heartbeat=0.2"]
    jobs = toy.multirun(tmp_path, [*study, "sweep.n_trials=3"], job).jobs
    again[0].join()
    assert [(job.number, job.status) for job in jobs] == [(number, "completed") for number in range(3)]
    found = optuna.load_study(study_name="away", storage=running_server.url)
    assert [trial.intermediate_values for trial in found.trials] == [{1: 0.0, 2: 1.0, 3: 2.0}] * 3


def test_another_server_under_the_same_name_is_refused(tmp_path: Path, server: str) -> None:
    study = [*STUDY[:1], "sweep.name=moved", "epochs=1", "sweep.n_trials=1"]
    toy.multirun(tmp_path, [*study, f"sweep.storage={server}"])
    # Another user and driver reach the same study.
    toy.multirun(tmp_path, [*study, f"sweep.storage={server.replace('sweeps@', 'sweeps:any@')}"])
    with pytest.raises(UserError, match=r"kept in postgresql://127\.0\.0\.1:\d+/postgres, and sweep\.storage=.*study"):
        toy.multirun(tmp_path, study)


def test_a_server_that_does_not_answer_is_told_without_its_password(tmp_path: Path) -> None:
    if find_spec("psycopg") is None:
        pytest.skip("pip install -e '.[postgresql]' brings the driver")
    with pytest.raises(UserError, match="cannot be reached") as caught:
        toy.multirun(tmp_path, [*STUDY, "sweep.storage=postgresql+psycopg://u:hush@127.0.0.1:9/x"])
    assert "hush" not in str(caught.value)
