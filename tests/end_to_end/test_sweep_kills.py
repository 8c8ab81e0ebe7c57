"""Processes killed with -9: a study keeps its exact total, loses no trial and runs none twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests import PROJECT
from tests.sweeping import toy
from tests.sweeping.toy import PATIENCE, blocked, wait_for

KILLS = 10
STUDY = ["x=interval(-2,2)", "sweep.n_trials=4", "sweep.name=s", "epochs=1", "block=1"]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake.sweeping.runner.draw_study", lambda *_: [])


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the toy study in a process of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*overrides: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.sweeping.toy", str(tmp_path), *STUDY, *overrides]
        log = (tmp_path / f"terminal-{len(started)}.log").open("wb")
        started.append(subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_killed_sweep_goes_on_to_its_exact_total(
    tmp_path: Path, terminal: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = terminal()
    blocked(tmp_path)
    process.kill()
    process.wait()
    (tmp_path / "go").touch()
    jobs = toy.multirun(tmp_path, STUDY).jobs
    assert [(job.number, job.status) for job in jobs] == [(number, "completed") for number in range(4)]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_trial_taken_up_again(
    tmp_path: Path, terminal: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = terminal("sweep.n_jobs=2")
    worker = blocked(tmp_path)
    (tmp_path / "blocked").unlink()
    os.kill(worker, signal.SIGKILL)
    assert blocked(tmp_path) != worker
    (tmp_path / "go").touch()
    assert process.wait(PATIENCE) == 0
    jobs = toy.multirun(tmp_path, STUDY).jobs
    assert [job.status for job in jobs] == ["completed"] * 4


def test_a_trial_whose_workers_are_killed_fails_after_its_retries(
    tmp_path: Path, terminal: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = terminal("sweep.n_jobs=2", "sweep.retries=0")
    os.kill(blocked(tmp_path), signal.SIGKILL)
    assert process.wait(PATIENCE) == 0
    jobs = toy.multirun(tmp_path, STUDY).jobs
    assert [job.status for job in jobs] == ["completed", "failed", "completed", "completed"]
    assert "killed by SIGKILL" in str(jobs[1].reason)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_lets_go_and_brings_the_sweep_to_its_end(
    tmp_path: Path, terminal: Callable[..., subprocess.Popen[bytes]], workers: int
) -> None:
    process = terminal(f"sweep.n_jobs={workers}")
    worker = blocked(tmp_path)
    process.send_signal(signal.SIGTERM)
    # Python's own end after an interruption that nobody catches.
    assert process.wait(PATIENCE) == -signal.SIGINT
    assert is_gone(worker)
    assert (tmp_path / "s" / "trials.csv").exists()
    (tmp_path / "go").touch()
    assert [job.status for job in toy.multirun(tmp_path, STUDY).jobs] == ["completed"] * 4


def test_workers_end_with_their_killed_parent_and_the_next_start_takes_over(
    tmp_path: Path, terminal: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = terminal("sweep.n_jobs=2")
    worker = blocked(tmp_path)
    process.kill()
    process.wait()
    wait_for(lambda: is_gone(worker))
    (tmp_path / "go").touch()
    jobs = toy.multirun(tmp_path, STUDY).jobs
    assert [(job.number, job.status) for job in jobs] == [(number, "completed") for number in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("terminals", [1, 2])
def test_a_promoting_study_that_is_killed_loses_and_repeats_next_to_nothing(tmp_path: Path, terminals: int) -> None:
    # Each epoch takes a while, so that kills hit all there is between two.
    study = ["x=interval(0,1)", "sampler=random", "sweep.name=s", "sweep.n_trials=16", "epochs=9", "batch=0", "lr=0.02"]
    study += ["pruner=promote", "sweep.pruner.min_resource=1"]
    draw = random.Random(terminals)
    trained = tmp_path / "trained"
    # Forks need not import again, which takes longer than all else.
    context = multiprocessing.get_context("fork")

    def lines() -> int:
        return len(trained.read_text().splitlines()) if trained.exists() else 0

    for _ in range(KILLS):
        seen = lines()
        running = [context.Process(target=_promote, args=(tmp_path, study)) for _ in range(terminals)]
        for process in running:
            process.start()
        wait_for(lambda: lines() > seen or not any(one.is_alive() for one in running))  # noqa: B023 - of this turn
        time.sleep(draw.uniform(0.0, 0.3))
        for process in running:
            process.kill()
            process.join()
    result = toy.multirun(tmp_path, study, toy.resumable)
    told = [(int(number), int(epoch)) for number, epoch in map(str.split, trained.read_text().splitlines())]
    assert len(result.jobs) == 16
    # A kill repeats the epoch in work, of each owner.
    assert len(told) - len(set(told)) <= KILLS * terminals
    for job in result.jobs:
        epochs = {epoch for number, epoch in told if number == job.number}
        assert epochs == set(range(len(epochs)))
        assert (job.status, len(epochs)) in (("completed", 9), ("paused", 1), ("paused", 3))
        if job.status == "completed":
            weight = job.metrics["score"]
            for epoch in range(9):
                weight = toy.trained_further(weight, epoch)
            assert job.metrics["weight"] == weight
    assert any(job.status == "completed" for job in result.jobs)


def _promote(folder: Path, study: Sequence[str]) -> None:
    with (folder / f"terminal-{os.getpid()}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        toy.multirun(folder, study, toy.resumable)


@pytest.mark.slow
def test_ctrl_c_lets_go_of_what_workers_run(tmp_path: Path, terminal: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = terminal("sweep.n_jobs=2")
    worker = blocked(tmp_path)
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE)
    assert is_gone(worker)
    (tmp_path / "go").touch()
    assert [job.status for job in toy.multirun(tmp_path, STUDY).jobs] == ["completed"] * 4


@pytest.mark.slow
def test_a_living_owner_keeps_its_trial(tmp_path: Path, terminal: Callable[..., subprocess.Popen[bytes]]) -> None:
    first = terminal()
    holder = blocked(tmp_path)
    second = terminal()
    table = tmp_path / "s" / "study.journal"
    wait_for(lambda: table.read_text().count('"state":1') >= 3)
    assert not is_gone(holder)
    (tmp_path / "go").touch()
    assert (first.wait(PATIENCE), second.wait(PATIENCE)) == (0, 0)
    assert [job.status for job in toy.multirun(tmp_path, STUDY).jobs] == ["completed"] * 4


def test_a_line_torn_by_a_kill_is_cut_off(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*STUDY, "block=null"])
    journal = tmp_path / "s" / "study.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code":5,"worker')
    jobs = toy.multirun(tmp_path, [*STUDY, "block=null", "sweep.n_trials=5"]).jobs
    assert len(jobs) == 5
