"""Which runs can be run again, and how to get the code they ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.cli import main as cli
from deepfake.commands.reproduce import _check_result, draw_runs
from deepfake.errors import UserError
from deepfake.runs.reproduction import how_to_get_code
from deepfake.tracking.run_folder import RunFolder
from deepfake.tracking.run_record import from_folder
from tests.runs.fakes import finished_run


def test_a_commit_is_checked_out_and_what_was_changed_in_it_applied() -> None:
    assert how_to_get_code({}) == ""
    assert how_to_get_code({"commit": "abc", "diff": ""}) == "git checkout abc"
    assert "git checkout abc, then git apply" in how_to_get_code({"commit": "abc", "diff": "--- a"})


def test_a_pruned_run_has_no_result_to_compare_with(tmp_path: Path) -> None:
    record = finished_run(tmp_path, "a", 0.5, "optimizer.lr=0.1")
    _check_result(record)
    record.tags["pruned"] = "true"
    with pytest.raises(UserError, match="was pruned by its sweep") as caught:
        _check_result(record)
    assert "optimizer.lr=0.1" in caught.value.hint


def test_a_run_without_its_scores_has_none_either(tmp_path: Path) -> None:
    folder = RunFolder(finished_run(tmp_path, "a", 0.5).places[0])
    (folder.path / "predictions.parquet").unlink()
    with pytest.raises(UserError, match=r"predictions\.parquet"):
        _check_result(from_folder(folder.path))


def test_the_best_is_always_among_those_that_are_drawn_and_the_draw_is_the_same_each_time() -> None:
    runs = [str(n) for n in range(20)]
    drawn = draw_runs(runs, "7", 4)
    assert drawn == draw_runs(runs, "7", 4)
    assert drawn[0] == "7"
    assert len(set(drawn)) == 4
    assert drawn[1:] == sorted(drawn[1:], key=int)


@pytest.mark.parametrize(
    ("best", "sample", "drawn"),
    [("b", None, "bac"), ("b", 1, "b"), ("b", 9, "bac"), (None, None, "abc"), (None, 9, "abc")],
)
def test_how_many_are_drawn(best: str | None, sample: int | None, drawn: str) -> None:
    assert "".join(draw_runs("abc", best, sample)) == drawn


def test_trust_in_what_came_along_needs_an_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["reproduce", "x", "--apply-diff"]) == 2
    assert "add --environment" in capsys.readouterr().err
