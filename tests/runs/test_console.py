"""What a notebook shows: plain lines, tables as HTML, one line for a bar, and no terminal's codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console as RichConsole
from rich.table import Table

from deepfake.progress import line_console
from deepfake.runs import console
from deepfake.runs.console import Bar, Console, NotebookBar, end_lines


class Shown:
    """In the place of a notebook: what is displayed, in order, and how often a line was overwritten."""

    def __init__(self) -> None:
        self.data: list[dict[str, str]] = []
        self.updates = 0

    def display(self, data: dict[str, str], raw: bool) -> None:
        self.data.append(data)

    def update(self, data: dict[str, str], raw: bool) -> None:
        self.updates += 1
        self.data[-1] = data


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """This process taken for a kernel, whose output says that it is a terminal."""
    shown = Shown()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("IPython.display.DisplayHandle", lambda: shown)
    monkeypatch.setattr("IPython.display.display", shown.display)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    return shown


def test_a_line_is_plain_text(notebook: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    Console().say("epoch 1/2  [bold]0.5")
    line_console().print("trial 0", style="red")
    assert capsys.readouterr().out == "epoch 1/2  [bold]0.5\ntrial 0\n"
    assert notebook.data == []


def test_a_table_is_html_that_is_not_folded(notebook: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", "ROC-AUC")
    table.add_row("a" * 90, "[red]0.5[/red]")
    Console().table(table)
    Console(quiet=True).table(table)
    (data,) = notebook.data
    assert "a" * 90 in data["text/html"]
    assert "overflow-x: auto" in data["text/html"]
    assert "\x1b" not in data["text/plain"]
    assert capsys.readouterr().out == ""


def test_a_bar_is_one_line_that_is_overwritten(notebook: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Console().progress() as bar:
        assert isinstance(bar, NotebookBar)
        bar.start(100, "preparing")
        for _ in range(100):
            now += 0.1
            bar.advance()
        bar.stop()
        (line,) = notebook.data
        assert re.fullmatch(r"preparing: \d+ of 100, 10\.0/s, 0:00:0\d left", line["text/plain"])
        assert 5 < notebook.updates < 10
        bar.start(3, "training")
        bar.advance()
    assert notebook.data == [{"text/plain": ""}]


def test_what_is_quick_shows_no_bar(notebook: Shown) -> None:
    with Console().progress() as bar:
        bar.start(3, "preparing")
        bar.advance(3)
    assert notebook.data == []
    assert isinstance(Console(quiet=True).progress(), Bar)


def test_elsewhere_nothing_is_a_notebook() -> None:
    assert isinstance(Console().progress(), Bar)
    assert not RichConsole().is_jupyter


def test_what_was_solved_before_training_is_told_beside_the_result() -> None:
    metrics = {"best_epoch": 1.0, "test/probe_roc_auc": 0.99, "test/gain_over_probe": -0.01}
    assert "gain over it is -0.0100" in end_lines(Path("run"), metrics, None)
    metrics |= {"test/gain_over_probe_low": -0.02, "test/gain_over_probe_high": 0.005}
    assert "-0.0100 [-0.0200, +0.0050]" in end_lines(Path("run"), metrics, None)
    assert "probe" not in end_lines(Path("run"), {"best_epoch": 1.0}, None)


def test_what_a_run_leans_on_is_told_between_its_result_and_its_folder() -> None:
    lines = end_lines(Path("run"), {"best_epoch": 1.0}, None, ["leans on framing: …"]).splitlines()
    assert lines[1:] == ["leans on framing: …", "run: run"]
