"""Which runs can be run again, and how to get the code they ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.commands.reproduce import _check_result
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
