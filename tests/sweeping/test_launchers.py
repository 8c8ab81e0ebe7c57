"""Beyond one machine, tried on one: submitit's local executor, a real PostgreSQL server."""

from __future__ import annotations

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
from tests.servers import Postgres
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


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that lives as long as these tests."""
    found = Postgres(tmp_path_factory.mktemp("postgres"))
    found.start()
    yield found
    found.stop()


@pytest.fixture
def server(running_server: Postgres) -> str:
    """Its URL."""
    return running_server.url


def test_two_workers_share_a_study_on_postgresql(tmp_path: Path, server: str) -> None:
    jobs = toy.multirun(tmp_path, [*STUDY, f"sweep.storage={server}"]).jobs
    assert [(job.number, job.status) for job in jobs] == [(number, "completed") for number in range(5)]


def test_a_study_on_postgresql_goes_on(tmp_path: Path, server: str) -> None:
    study = [*STUDY[:1], "sweep.name=on", "epochs=1", f"sweep.storage={server}"]
    toy.multirun(tmp_path, [*study, "sweep.n_trials=2"])
    assert len(toy.multirun(tmp_path, [*study, "sweep.n_trials=3"]).jobs) == 3


def test_a_server_that_goes_away_in_mid_trial_is_waited_for(tmp_path: Path, running_server: Postgres) -> None:
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
