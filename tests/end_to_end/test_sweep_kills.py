"""Processes killed with -9: a study keeps its exact total, loses no trial and runs none twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests import PROJECT
from tests.sweeping import toy
from tests.sweeping.toy import PATIENCE, blocked, wait_for

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
