"""Whole studies that are commanded while they run: by a thread, as from another terminal."""

from __future__ import annotations

import csv
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import UserError
from deepfake.sweeping.commands import DONE
from deepfake.sweeping.control import Control
from deepfake.sweeping.status import FINISHED, STOPPED_STATE, status_of
from deepfake.sweeping.storage import locate
from tests.sweeping import toy
from tests.sweeping.toy import wait_for

pytestmark = pytest.mark.usefixtures("no_figures")
EPOCHS = 6
# Of the toy, batch=0 makes lr the seconds that an epoch takes.
STUDY = ["x=interval(0,1)", "sampler=random", "sweep.name=s", f"epochs={EPOCHS}", "batch=0", "lr=0.05"]


def control(folder: Path) -> Control:
    return Control(locate("journal", folder / "s"), "s")


def study(folder: Path, *more: str, meanwhile: Callable[[], object] = lambda: None) -> Any:
    """Run a study, and do something from another terminal as soon as it runs."""
    failures: list[BaseException] = []

    def command() -> None:
        try:
            meanwhile()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=command)
    thread.start()
    result = toy.multirun(folder, [*STUDY, *more], toy.resumable)
    thread.join()
    assert failures == []
    return result


def runs(folder: Path, least: int = 1) -> Callable[[], bool]:
    """Whether so many epochs were begun."""

    def told() -> bool:
        return (folder / "trained").exists() and len((folder / "trained").read_text().splitlines()) >= least

    return told


def trained(folder: Path) -> Counter[str]:
    return Counter((folder / "trained").read_text().splitlines())


def running(folder: Path) -> int:
    """The number of a trial that runs."""
    found: list[int] = []

    def look() -> bool:
        with suppress(UserError):
            found[:] = [one.number for one in status_of(control(folder)).trials if one.doing == "running"]
        return bool(found)

    wait_for(look)
    return found[0]


def insist(folder: Path, command: Callable[[int], str]) -> None:
    """Give a command to a trial that runs; it may end before that."""
    while True:
        with suppress(UserError):
            command(running(folder))
            return


def test_a_stopped_study_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        wait_for(runs(tmp_path, 2))
        control(tmp_path).stop_study()

    result = study(tmp_path, "sweep.n_trials=4", meanwhile=stop)
    assert result.status == "stopped"
    assert " said so; the same command goes on" in capsys.readouterr().out
    assert status_of(control(tmp_path)).state == STOPPED_STATE
    assert len(trained(tmp_path)) < 4 * EPOCHS
    assert study(tmp_path, "sweep.n_trials=4").status == "finished"
    assert status_of(control(tmp_path)).state == FINISHED
    assert set(trained(tmp_path).values()) == {1}
    assert len(trained(tmp_path)) == 4 * EPOCHS


def test_a_stopped_trial_says_who_stopped_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        wait_for(runs(tmp_path))
        insist(tmp_path, control(tmp_path).stop)

    result = study(tmp_path, "sweep.n_trials=3", meanwhile=stop)
    assert result.status == "finished"
    table = list(csv.DictReader((tmp_path / "s" / "trials.csv").open()))
    (row,) = [row for row in table if row["status"] == "pruned"]
    assert row["reason"].startswith("stopped by ")
    assert f"trial {row['trial']} pruned: stopped by " in capsys.readouterr().out


def test_a_trial_that_is_paused_is_left_to_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def pause() -> None:
        wait_for(runs(tmp_path))
        insist(tmp_path, control(tmp_path).pause)

    result = study(tmp_path, "sweep.n_trials=3", meanwhile=pause)
    assert result.status == "stopped"
    (job,) = [job for job in result.jobs if job.status == "paused"]
    out = capsys.readouterr().out
    assert f"stopped: trial {job.number} is paused by hand: " in out
    assert f"sweep s resume {job.number}" in out
    control(tmp_path).resume(job.number)
    result = study(tmp_path, "sweep.n_trials=3")
    assert [job.status for job in result.jobs] == ["completed"] * 3
    assert set(trained(tmp_path).values()) == {1}


@pytest.mark.slow
def test_workers_come_and_go_and_no_epoch_is_trained_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change() -> None:
        for count in (3, 1):
            wait_for(runs(tmp_path, 3 if count == 3 else 20))
            wait_for(partial(asked, count))
            wait_for(lambda: not status_of(control(tmp_path)).pending)

    def asked(count: int) -> bool:
        with suppress(UserError):
            control(tmp_path).workers(count)
            return True
        return False

    result = study(tmp_path, "sweep.n_trials=16", "lr=0.2", "sweep.n_jobs=2", meanwhile=change)
    assert result.status == "finished"
    assert [command.status for command in control(tmp_path).ledger.commands()] == [DONE, DONE]
    out = capsys.readouterr().out
    assert ": 1 more begin" in out
    assert ": 2 end with their epoch" in out
    assert set(trained(tmp_path).values()) == {1}
    assert len(trained(tmp_path)) == 16 * EPOCHS
