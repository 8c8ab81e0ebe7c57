"""Several runs again from one command, a study's among them, and one that several processes trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.conftest import TWO_EPOCHS, Command


def test_of_a_study_the_best_is_always_among_those_that_are_drawn(command: Command, tmp_path: Path) -> None:
    done = command(
        "train.py", "-m", *TWO_EPOCHS, "sweep.name=again", "sweep.n_trials=3",
        "optimizer.lr=tag(log, interval(1e-3, 1e-2))",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    done = command("-m", "deepfake.cli", "reproduce", "study:again", "--sample", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("verdict: identical") == 2
    assert "2 runs" in done.stdout
    assert done.stdout.rstrip().endswith("2 of 2: identical")
    best = command("-m", "deepfake.cli", "reproduce", "best:again", "--check").stdout
    first = next(line for line in done.stdout.splitlines() if line.startswith("run '"))
    assert first in best


def test_one_that_cannot_be_run_does_not_keep_the_others_from_it(finished: Path, command: Command) -> None:
    done = command("-m", "deepfake.cli", "reproduce", str(finished), "no such run", "--check")
    assert done.returncode == 1
    assert "data the same" in done.stdout
    assert "not run: there is no run named 'no such run'" in done.stdout
    assert "1 of 2: data the same" in done.stdout


@pytest.mark.parametrize(("words", "said"), [(["study:none"], "none"), (["once", "--sample", "0"], "--sample 0")])
def test_what_means_no_runs_is_told(finished: Path, command: Command, words: list[str], said: str) -> None:
    done = command("-m", "deepfake.cli", "reproduce", *words)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.slow
def test_a_run_of_two_processes_is_run_by_two_again(command: Command) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = command(*launcher, "train.py", *TWO_EPOCHS, "name=pair", "trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr
    done = command("-m", "deepfake.cli", "reproduce", "pair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cpu x 2" in done.stdout
    assert done.stdout.rstrip().endswith("verdict: identical")
