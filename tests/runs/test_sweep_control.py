"""What ``deepfake sweep`` shows of a study at work, and the commands that it passes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import UserError
from deepfake.runs.console import Console
from deepfake.runs.sweep_control import (
    COMMANDS,
    command,
    lines_of,
    open_study,
    show,
    studies_table,
    watch,
)
from deepfake.sweeping.agent import RunningTrial
from deepfake.sweeping.callbacks import PAUSED, Job
from deepfake.sweeping.claims import Claims
from deepfake.sweeping.status import status_of
from deepfake.sweeping.trial import Paused
from deepfake.tracking.run_folder import CHECKPOINT
from deepfake.tracking.runs import mark_paused, mark_pruned
from deepfake.tracking.store import Store, connect
from tests.sweeping import toy
from tests.sweeping.toy import claimed, completed, opened


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    """A study of four trials that a pool of two has begun."""
    found = opened(toy.make_plan(tmp_path / "s", total=4))
    found.study.sign("pool", 2)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    database = tmp_path / "mlflow.db"
    return Store(f"sqlite:///{database}", tmp_path / "artifacts", database)


def given(claims: Claims, store: Store, *words: str) -> str:
    folder = claims.plan.folder
    study = open_study(folder, None)
    assert study is not None
    return command(study, words, store, folder)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["pase", "1"], "'pase' is no command", "pause"),
        (["pause"], "pause takes TRIAL, and nothing was given", "sweep s pause TRIAL"),
        (["pause", "1", "2"], "pause takes TRIAL, and 1 2 was given", "sweep s pause TRIAL"),
        (["pause", "first"], "'first' is no number of a trial", "from 0"),
        (["pause", "-1"], "'-1' is no number of a trial", "from 0"),
        (["workers", "many"], "'many' is no number of workers", "how many"),
        (["stop", "1", "2"], r"stop takes [TRIAL]", "sweep s stop [TRIAL]"),
        (["retry"], "retry takes failed|TRIAL", "sweep s retry failed|TRIAL"),
        (["pause", "1"], "the study has no trial 1", "from 0 to 0"),
    ],
)
def test_what_is_no_command_is_told(claims: Claims, store: Store, words: list[str], message: str, hint: str) -> None:
    claimed(claims)
    with pytest.raises(UserError) as caught:
        given(claims, store, *words)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_every_command_is_passed_on(claims: Claims, store: Store) -> None:
    claim = claimed(claims)
    assert "is paused after its epoch" in given(claims, store, "pause", "0")
    assert "goes on" in given(claims, store, "resume", "0")
    assert "is stopped after its epoch" in given(claims, store, "stop", "0")
    assert "trial 1 is to be x=0.5" in given(claims, store, "add", "x=0.5")
    assert "3 workers instead of 2" in given(claims, store, "workers", "3")
    with pytest.raises(UserError, match="no trial of the study has failed"):
        given(claims, store, "retry", "failed")
    assert "is stopped: 1 running trial" in given(claims, store, "stop")
    assert {word for word, _ in COMMANDS.items()} == {"pause", "resume", "stop", "retry", "add", "workers"}
    assert claim.number == 0


def test_a_study_is_told_in_lines_and_a_table(claims: Claims, capsys: pytest.CaptureFixture[str]) -> None:
    done = claimed(claims)
    claims.finish(done, completed(done, 0.25))
    claim = claimed(claims)
    RunningTrial(claims, claim).report(0, {"m": 0.5}, more=True)
    study = open_study(claims.plan.folder, None)
    assert study is not None
    study.pause(1)
    show(study, Console())
    out = capsys.readouterr().out
    assert "s: running, 1/4 trials ended (1 completed), 1 running" in out
    assert "best: m 0.25 (trial 0), x=" in out
    assert "spent: 1 epochs" in out
    assert "left: 3 trials" in out
    assert "running, to be paused" in out
    assert f"process {claims.study.owner['pid']}" in out
    assert "command 1: pause 1 (" in out
    assert out.rstrip().endswith("pending")


def test_how_long_the_rest_takes_is_a_range(claims: Claims) -> None:
    plan = claims.plan
    many = opened(toy.make_plan(plan.folder.parent / "many", total=12))
    many.study.sign("here", 1)
    for _ in range(6):
        claim = claimed(many)
        many.finish(claim, Job(claim.number, [], "completed", metrics={"m": 1.0}, values=[1.0], seconds=60.0))
    study = open_study(many.plan.folder, None)
    assert study is not None
    assert lines_of(status_of(study))[-1] == "left: 6 trials, 6 min at 1 worker (four times in five)"


def test_sweeps_are_listed_whatever_they_are(claims: Claims, capsys: pytest.CaptureFixture[str]) -> None:
    claim = claimed(claims)
    claims.finish(claim, completed(claim, 0.25))
    outputs = claims.plan.folder.parent
    (outputs / "grid" / "0").mkdir(parents=True)
    (outputs / "broken").mkdir()
    (outputs / "broken" / "study.journal").write_text("no journal\n{}\n")
    (outputs / "away").mkdir()
    (outputs / "away" / "storage.json").write_text('{"storage": "postgresql://host/db"}')
    Console().table(studies_table([outputs / name for name in ("s", "grid", "broken", "away")], lambda _: "7 MB"))
    lines = capsys.readouterr().out
    assert "running" in lines
    assert "1/4" in lines
    assert "m 0.25 (trial 0)" in lines
    assert "a grid" in lines
    assert lines.count("7 MB") == 4
    assert "postgresql://host/db" in lines
    assert lines.count("cannot be read") == 2


def test_a_study_is_watched_until_it_ends(claims: Claims, capsys: pytest.CaptureFixture[str]) -> None:
    study = open_study(claims.plan.folder, None)
    assert study is not None

    def end() -> None:
        claim = claimed(claims)
        claims.finish(claim, completed(claim, 0.25))
        claims.study.sign_off("stopped")

    thread = threading.Timer(0.5, end)
    thread.start()
    assert watch(study, Console(), 0.05).state == "stopped"
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("s: running, 0/4 trials ended")
    assert lines[-1].endswith("s: stopped, 1/4 trials ended (1 completed), best m 0.25 (trial 0)")
    # A line for each change.
    assert len(lines) <= 5


def test_the_run_of_a_trial_that_nobody_runs_says_what_the_study_says(claims: Claims, store: Store) -> None:
    client = connect(store)
    run = client.create_run(client.create_experiment("e"))
    client.set_terminated(run.info.run_id, status="KILLED")
    client.set_tag(run.info.run_id, "interrupted", "true")
    folder = claims.plan.folder / "0"
    checkpoint = folder / CHECKPOINT
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("state")
    claim = claimed(claims)
    running = RunningTrial(claims, claim)
    running.identify(run_id=run.info.run_id, run_dir=str(folder))
    running.report(0, {"m": 0.5}, more=True)
    claims.let_go(claim)

    def said() -> tuple[str, dict[str, str]]:
        found = client.get_run(run.info.run_id)
        wanted = ("state", "interrupted", "pruned")
        return found.info.status, {key: found.data.tags[key] for key in wanted if key in found.data.tags}

    given(claims, store, "pause", "0")
    assert said() == ("SCHEDULED", {"state": "paused"})
    given(claims, store, "resume", "0")
    assert said() == ("SCHEDULED", {})
    given(claims, store, "pause", "0")
    assert checkpoint.exists()
    given(claims, store, "stop", "0")
    assert said() == ("FINISHED", {"pruned": "true"})
    assert not checkpoint.exists()


def test_a_folder_elsewhere_is_left_alone(claims: Claims, store: Store, tmp_path: Path) -> None:
    checkpoint = tmp_path / "mine" / CHECKPOINT
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("state")
    claim = claimed(claims)
    RunningTrial(claims, claim).identify(run_dir=str(tmp_path / "mine"))
    claims.let_go(claim)
    given(claims, store, "stop", "0")
    assert checkpoint.exists()


def test_a_run_that_is_gone_is_left_so(store: Store) -> None:
    client = connect(store)
    mark_pruned(client, "0" * 32)
    mark_paused(client, "0" * 32, paused=True)


def test_a_paused_trial_is_shown_with_who_paused_it(claims: Claims, store: Store) -> None:
    claim = claimed(claims)
    given(claims, store, "pause", "0")
    with pytest.raises(Paused):
        RunningTrial(claims, claim).report(0, {"m": 0.5}, more=True)
    claims.pause(claim, Job(0, [], PAUSED))
    study: Any = open_study(claims.plan.folder, None)
    (trial,) = status_of(study).trials
    assert trial.doing.startswith("paused, by ")
