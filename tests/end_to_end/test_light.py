"""A search that keeps the weights of its best, and what is said by whoever asks for those of the others."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.end_to_end.conftest import SMALL, Command
from tests.end_to_end.using import Here

WEIGHTS = "checkpoints/best.safetensors"


@pytest.fixture(scope="module")
def searched(command: Command, outputs: Path) -> Path:
    """The folder of a search of four trials that keeps one."""
    chosen = ["sweep.n_trials=4", "sweep.name=light", "sampler=random", "sweep.keep=1"]
    done = command("train.py", "-m", *SMALL, "optimizer.lr=interval(0.0001,0.01)", *chosen)
    assert done.returncode == 0, done.stderr
    assert "weights are kept of its best 1" in done.stdout
    assert "the weights of 3 runs that were beaten are deleted" in done.stdout
    return outputs / "sweeps" / "light"


def best(folder: Path) -> int:
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    return int(max(rows, key=lambda row: (float(row["val/roc_auc"]), -int(row["trial"])))["trial"])


def test_the_best_keeps_its_weights_and_all_keep_the_rest(searched: Path, outputs: Path) -> None:
    kept = [number for number in range(4) if (searched / str(number) / WEIGHTS).is_file()]
    assert kept == [best(searched)]
    for number in range(4):
        assert (searched / str(number) / "predictions.parquet").is_file()
        assert (searched / str(number) / "figures" / "learning_curves.png").is_file()
    names = {path.stat().st_ino for path in (outputs / "artifacts").rglob("best.safetensors")}
    assert (searched / str(kept[0]) / WEIGHTS).stat().st_ino in names


def test_the_best_is_used_as_any_run(searched: Path, here: Here) -> None:
    said = here("evaluate", "best:light")
    assert said.status == 0, said.err


@pytest.mark.parametrize("verb", [["evaluate"], ["predict"], ["ensemble"], ["resume"], ["init_from"]])
def test_others_say_where_theirs_are(searched: Path, here: Here, command: Command, verb: list[str]) -> None:
    lost = next(number for number in range(4) if number != best(searched))
    reference = f"light:{lost}"
    if verb == ["resume"]:
        done = command("train.py", f"resume={searched / str(lost)}")
        status, err = done.returncode, done.stderr
    elif verb == ["init_from"]:
        done = command("train.py", *SMALL, f"trainer.init_from={reference}")
        status, err = done.returncode, done.stderr
    else:
        more = {"predict": [str(searched)], "ensemble": ["best:light"]}.get(verb[0], [])
        said = here(verb[0], reference, *more)
        status, err = said.status, said.err
    assert status == 2, err
    assert "sweep light keeps the weights of its best 1 (tracking.keep_weights=best)" in err
    assert "reproduce" in err


def test_one_that_lost_is_had_again(searched: Path, here: Here, outputs: Path) -> None:
    lost = next(number for number in range(4) if number != best(searched))
    before = set((outputs / "runs").glob("*"))
    said = here("reproduce", f"light:{lost}")
    assert said.status == 0, said.err + said.out
    (made,) = set((outputs / "runs").glob("*")) - before
    assert (made / WEIGHTS).is_file()


def test_a_run_may_keep_none(command: Command, here: Here, outputs: Path) -> None:
    done = command("train.py", *SMALL, "tracking.keep_weights=none", "name=lean")
    assert done.returncode == 0, done.stderr
    said = here("predict", "lean", str(outputs))
    assert said.status == 2
    assert "tracking.keep_weights=none kept none" in said.err
    assert not [path for path in outputs.rglob("*.safetensors") if "lean" in str(path)]
