"""Runs side by side on one page."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from deepfake.cli import main
from deepfake.tracking.run_record import RunRecord
from tests.runs.fakes import finished_run

Make = Callable[..., RunRecord]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """``make("name", 0.8)`` is a finished run of that skill."""
    return partial(finished_run, tmp_path)


def test_the_verb_writes_one_page_that_needs_nothing_else(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(tmp_path / "outputs"))
    runs = [str(make(name, skill).places[0]) for name, skill in (("low", 0.05), ("higher", 0.9))]
    assert main(["compare", *runs, "--out", str(tmp_path / "page")]) == 0
    printed = capsys.readouterr().out
    assert printed.index("higher") < printed.index("low ")
    assert re.search(r"higher\s+│ low\s.*│ yes", printed)
    page = (tmp_path / "page" / "report.html").read_text()
    assert page.count('<svg class="chart"') >= 3
    assert not re.search(r"https?://", page)
    assert all((tmp_path / "page" / name).is_file() for name in ("roc.png", "learning_curves.png"))
    assert (tmp_path / "page" / "comparison.md").is_file()
    assert list(pd.read_csv(tmp_path / "page" / "comparison.csv")["run"]) == ["higher", "low"]


def test_nothing_named_says_what_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(tmp_path))
    assert main(["compare"]) == 2
    assert "--experiment NAME" in capsys.readouterr().err


def test_a_sweep_may_have_a_name_that_ends_in_a_digit(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for number, skill in enumerate((0.1, 0.8)):
        make("tried", skill, folder=f"sweeps/tried2/{number}")
    assert main(["compare", "study:tried2", "--csv", "--out", str(tmp_path / "page")]) == 0
    assert "2 runs compared" in capsys.readouterr().out
