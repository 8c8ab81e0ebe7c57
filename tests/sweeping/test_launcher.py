"""Studies over Hydra's launchers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig, OmegaConf

from deepfake.errors import UserError
from deepfake.sweeping.control import Control
from deepfake.sweeping.facts import steps_of
from deepfake.sweeping.heartbeat import new_owner, process_identity
from deepfake.sweeping.jobs import refusal_hint
from deepfake.sweeping.launcher import Launched, signing
from deepfake.sweeping.status import FINISHED, status_of
from deepfake.sweeping.storage import Location, locate
from deepfake.sweeping.trial import current
from tests.servers import Postgres
from tests.sweeping import toy

pytestmark = pytest.mark.usefixtures("no_figures")


class Silent:
    """A launcher whose jobs never come back, as one that waits for a cancelled job."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.over = threading.Event()

    def launch(self, places: list[list[str]], initial_job_idx: int) -> list[Any]:
        self.numbers += range(initial_job_idx, initial_job_idx + len(places))
        self.over.wait(60)
        return []


class Refusing:
    """A launcher that cannot start anything."""

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, 0

    def launch(self, places: list[list[str]], initial_job_idx: int) -> list[Any]:
        self.asked += 1
        raise RuntimeError(self.text)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Launched]:
    """``start(launcher, workers)`` gives workers on a study of four trials, none of which has ended."""
    monkeypatch.setattr("deepfake.sweeping.launcher._NOTICE_SECONDS", 0.0)
    plan = SimpleNamespace(folder=tmp_path, total=4, fixed=[], name="s")
    study: Any = SimpleNamespace(owner={"token": "t"}, plan=plan, trials=list)
    runner: Any = SimpleNamespace(folder=tmp_path, config=OmegaConf.create({}), context=None)
    runner.create_launcher = lambda: launchers[-1]
    launchers: list[Any] = []

    def begin(launcher: Any, workers: int) -> Launched:
        launchers.append(launcher)
        monkeypatch.setattr("deepfake.sweeping.launcher.JobRunner", lambda *_: runner)
        return Launched(study, runner, workers, say=lambda text: None)

    return begin


def _sign(folder: Path, number: int, owner: dict[str, Any], ended: str | None = None) -> None:
    (folder / "workers").mkdir(exist_ok=True)
    sign = {"owner": {**owner, "heartbeat": 30}, "beat": 0, "ended": ended}
    (folder / "workers" / f"t-{number}.json").write_text(json.dumps(sign))


def _dead() -> dict[str, Any]:
    gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {**process_identity(gone.pid), "token": "x", "supervisor": None}
    gone.communicate()
    return owner


def test_a_worker_whose_process_is_gone_is_replaced_although_its_launcher_waits(
    start: Callable[..., Launched], tmp_path: Path
) -> None:
    launcher = Silent()
    with start(launcher, 2) as workers:
        _sign(tmp_path, 0, new_owner(None, 30))
        _sign(tmp_path, 1, _dead())
        workers.look_after(stopping=False)
        _wait(lambda: launcher.numbers == [0, 1, 2])
        assert not workers.is_idle()
    launcher.over.set()


def test_at_the_end_no_worker_is_replaced_and_none_that_never_began_is_waited_for(
    start: Callable[..., Launched], tmp_path: Path
) -> None:
    launcher = Silent()
    with start(launcher, 3) as workers:
        _sign(tmp_path, 0, new_owner(None, 30), ended="")
        _sign(tmp_path, 1, _dead())
        workers.look_after(stopping=True)
        assert workers.is_idle()
    assert launcher.numbers == [0, 1, 2]
    launcher.over.set()


def test_the_end_waits_for_workers_that_are_at_work(start: Callable[..., Launched], tmp_path: Path) -> None:
    launcher = Silent()
    with start(launcher, 1) as workers:
        _sign(tmp_path, 0, new_owner(None, 30))
        workers.look_after(stopping=True)
        assert not workers.is_idle()
    launcher.over.set()


def test_a_refusal_ends_it_at_once(start: Callable[..., Launched]) -> None:
    launcher = Refusing("sbatch: error: Invalid qos specification")
    with pytest.raises(UserError, match="Invalid qos") as caught, start(launcher, 2) as workers:
        _look_until_told(workers)
    assert "hydra.launcher.qos" in caught.value.hint
    assert launcher.asked == 1


def test_other_troubles_are_tried_again_a_few_times(start: Callable[..., Launched]) -> None:
    launcher = Refusing("the moon is wrong")
    with pytest.raises(UserError, match="the moon is wrong"), start(launcher, 2) as workers:
        _look_until_told(workers)
    assert launcher.asked == 3


def test_a_worker_signs_how_it_ended(tmp_path: Path) -> None:
    file = tmp_path / "workers" / "a.json"
    with signing(file, new_owner(None, 30)):
        assert json.loads(file.read_text())["ended"] is None
    assert json.loads(file.read_text())["ended"] == ""
    with pytest.raises(ValueError, match="bad"), signing(file, new_owner(None, 30)):
        raise ValueError("bad")
    assert json.loads(file.read_text())["ended"] == "ValueError: bad"


def test_a_worker_gives_signs_of_life(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with signing(file, new_owner(None, 0.01)):
        _wait(lambda: json.loads(file.read_text())["beat"] > 1)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sbatch: error: Invalid generic resource (gres) specification", "gpus_per_node"),
        ("sbatch: error: invalid partition specified: gpu", "partition"),
        ("allocation failure: Requested node configuration is not available", "mem_gb"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "timeout_min"),
    ],
)
def test_what_a_cluster_refuses_has_a_key(text: str, key: str) -> None:
    hint = refusal_hint(RuntimeError(text))
    assert hint is not None
    assert key in hint


def test_other_errors_have_no_key() -> None:
    assert refusal_hint(RuntimeError("out of luck")) is None


def _look_until_told(workers: Launched) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        workers.look_after(stopping=False)
        time.sleep(0.01)


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


STUDY = ["x=interval(-2,2)", "sweep.n_trials=5", "sweep.name=s", "epochs=1", "sweep.n_jobs=2"]
ORDERED = ["x=interval(-2,2)", "sampler=tpe", "sweep.sampler.n_startup_trials=2", "sweep.n_trials=6", "epochs=2"]
ORDERED += ["pruner=asha", "sweep.pruner.min_resource=1", "sweep.ordered=true", "sweep.lag=2", "sweep.name=ordered"]
PROMOTED = ["x=interval(0,1)", "sampler=random", "sweep.name=promoted", "epochs=9", "sweep.n_jobs=2"]
PROMOTED += ["pruner=promote", "sweep.pruner.min_resource=1", "sweep.pruner.reduction_factor=3"]
SUBMITIT = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="pip install -e '.[slurm]' brings submitit")
def test_workers_of_submitit_share_a_study(tmp_path: Path) -> None:
    jobs = toy.multirun(tmp_path, [*STUDY, *SUBMITIT]).jobs
    assert [(job.number, job.status) for job in jobs] == [(number, "completed") for number in range(5)]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="pip install -e '.[slurm]' brings submitit")
def test_a_plain_grid_runs_through_a_launcher(tmp_path: Path) -> None:
    jobs = toy.multirun(tmp_path, ["x=0,1", "epochs=1", "hydra/launcher=submitit_local"]).jobs
    assert [job.metrics["score"] for job in jobs] == [0.0, 1.0]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="pip install -e '.[slurm]' brings submitit")
def test_a_study_in_order_is_the_same_with_workers_of_submitit(tmp_path: Path) -> None:
    _compare_with_one_worker(tmp_path, SUBMITIT)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="pip install -e '.[slurm]' brings submitit")
def test_trials_are_paused_and_promoted_by_workers_of_submitit(tmp_path: Path) -> None:
    _promote_twice(tmp_path, SUBMITIT, locate("journal", tmp_path / "promoted"))


def _compare_with_one_worker(folder: Path, where: list[str]) -> None:
    alone = toy.multirun(folder / "alone", ORDERED).jobs
    both = toy.multirun(folder / "both", [*ORDERED, "sweep.n_jobs=2", *where]).jobs
    assert [(job.number, job.status, job.overrides) for job in both] == [
        (job.number, job.status, job.overrides) for job in alone
    ]


def _promote_twice(folder: Path, where: list[str], storage: Location) -> None:
    first = toy.multirun(folder, [*PROMOTED, *where, "sweep.budget=20"], toy.resumable)
    second = toy.multirun(folder, [*PROMOTED, *where, "sweep.budget=40"], toy.resumable)
    assert {job.status for job in first.jobs} >= {"paused"}
    assert {job.status for job in second.jobs} == {"completed", "paused"}
    trained = (folder / "trained").read_text().splitlines()
    assert len(trained) == len(set(trained)) == sum(map(steps_of, Control(storage, "promoted").trials()))
    # What was begun within the budget runs to its rung, the highest of which is six epochs further.
    assert 20 < len(trained) <= 40 + 5


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


@pytest.mark.slow
def test_two_workers_share_a_study_on_postgresql(tmp_path: Path, server: str) -> None:
    jobs = toy.multirun(tmp_path, [*STUDY, f"sweep.storage={server}"]).jobs
    assert [(job.number, job.status) for job in jobs] == [(number, "completed") for number in range(5)]


@pytest.mark.slow
def test_a_study_on_postgresql_goes_on(tmp_path: Path, server: str) -> None:
    study = [*STUDY[:1], "sweep.name=on", "epochs=1", f"sweep.storage={server}"]
    toy.multirun(tmp_path, [*study, "sweep.n_trials=2"])
    assert len(toy.multirun(tmp_path, [*study, "sweep.n_trials=3"]).jobs) == 3


@pytest.mark.slow
def test_a_study_in_order_is_the_same_on_postgresql_with_two_workers(tmp_path: Path, server: str) -> None:
    _compare_with_one_worker(tmp_path, [f"sweep.storage={server}"])


@pytest.mark.slow
def test_trials_are_paused_and_promoted_on_postgresql_by_two_workers(tmp_path: Path, server: str) -> None:
    _promote_twice(tmp_path, [f"sweep.storage={server}"], _at(server, tmp_path))


@pytest.mark.slow
def test_a_study_on_postgresql_is_commanded_from_another_terminal(tmp_path: Path, server: str) -> None:
    study = ["x=interval(0,1)", "sampler=random", "sweep.name=hand", "epochs=4", f"sweep.storage={server}"]
    toy.multirun(tmp_path, [*study, "sweep.n_trials=1"], toy.resumable)
    control = Control(_at(server, tmp_path), "hand")
    control.add(["like=0", "x=0.25"])
    assert [trial.doing for trial in status_of(control).trials] == ["waits"]
    jobs = toy.multirun(tmp_path, [*study, "sweep.n_trials=2"], toy.resumable).jobs
    assert [job.overrides for job in jobs][1] == ["x=0.25"]
    assert status_of(control).state == FINISHED
    with pytest.raises(UserError, match="trial 1 "):
        control.stop(1)


def _at(server: str, folder: Path) -> Location:
    return locate(server, folder / "study")


@pytest.mark.slow
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


@pytest.mark.slow
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
