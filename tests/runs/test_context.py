"""Where a run stands: alone, or in a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.conf import HydraConf
from hydra.types import RunMode

from deepfake.errors import UserError
from deepfake.runs.context import read_parent, read_swept, refuse_sweep_keys, write_parent


def test_jobs_of_a_sweep_find_the_run_they_are_nested_under(tmp_path: Path) -> None:
    assert read_parent(tmp_path / "sweep") is None
    write_parent(tmp_path / "sweep", "abc", ["seed"])
    assert read_parent(tmp_path / "sweep") == "abc"
    assert read_swept(tmp_path / "sweep") == ["seed"]


def test_a_sweep_of_an_older_version_does_not_say_what_it_sweeps(tmp_path: Path) -> None:
    assert read_swept(tmp_path) == []
    (tmp_path / "parent.json").write_text('{"run_id": "abc"}')
    assert (read_parent(tmp_path), read_swept(tmp_path)) == ("abc", [])


@pytest.mark.parametrize("text", ["sweep.n_trials=3", "sampler=random", "search=seeds"])
def test_a_single_run_refuses_keys_of_a_sweep(text: str) -> None:
    hydra = HydraConf(mode=RunMode.RUN)
    hydra.overrides.task = ["seed=1", text]
    with pytest.raises(UserError, match="is of a sweep, and this is a single run"):
        refuse_sweep_keys(hydra)
    hydra.mode = RunMode.MULTIRUN
    refuse_sweep_keys(hydra)
