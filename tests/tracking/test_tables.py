from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from deepfake.errors import UserError
from deepfake.tracking.tables import (
    Report,
    Section,
    cell,
    rank,
    report_to_markdown,
    report_to_terminal,
    to_csv,
    to_markdown,
    to_terminal,
    unrepeated,
    without_ends,
)

NAN = float("nan")


@pytest.fixture
def runs() -> pd.DataFrame:
    return pd.DataFrame({"name": ["a", "b", "c|d"], "test/roc_auc": [0.8, NAN, 0.9], "test/f1": [0.5, 0.6, 1.0]})


def test_best_run_comes_first_and_missing_ones_last(runs: pd.DataFrame) -> None:
    assert list(rank(runs, "test/roc_auc")["name"]) == ["c|d", "a", "b"]


def test_smaller_is_better_where_said(runs: pd.DataFrame) -> None:
    assert list(rank(runs, "test/roc_auc", larger_is_better=False)["name"]) == ["a", "c|d", "b"]


def test_arrow_says_which_way_the_metric_is_sorted(runs: pd.DataFrame) -> None:
    for larger, arrow in ((True, "▼"), (False, "▲")):
        table = to_terminal(rank(runs, "test/f1", larger_is_better=larger), ["name", "test/f1"], "test/f1")
        assert table.columns[1].header == f"F1 {arrow}"


def test_unknown_metric_names_the_nearest(runs: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="did you mean 'test/roc_auc'"):
        rank(runs, "test/roc_auk")


def test_markdown_marks_the_best_and_keeps_its_columns(runs: pd.DataFrame) -> None:
    lines = to_markdown(rank(runs, "test/roc_auc"), ["name", "test/roc_auc"], "test/roc_auc").splitlines()
    assert lines == [
        "| name | ROC-AUC |",
        "| --- | ---: |",
        "| **c\\|d** | **0.9000** |",
        "| a | 0.8000 |",
        "| b | – |",
    ]


def test_terminal_shows_every_run(runs: pd.DataFrame) -> None:
    written = io.StringIO()
    console = Console(width=80, file=written)
    console.print(to_terminal(rank(runs, "test/f1"), ["name", "test/f1"], "test/f1", "Runs"))
    assert all(word in written.getvalue() for word in ("Runs", "F1 ▼", "c|d", "1.0000"))


def test_csv_keeps_every_digit(runs: pd.DataFrame, tmp_path: Path) -> None:
    to_csv(runs.assign(x=1 / 3), ["name", "x"], tmp_path / "t.csv")
    assert list(pd.read_csv(tmp_path / "t.csv")["x"]) == [1 / 3] * 3


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "0.5000"),
        (NAN, "–"),
        (None, "–"),
        (3, "3"),
        (1e-5, "1e-05"),
        (0.0, "0.0000"),
        ("x", "x"),
        (2e7, "2e+07"),
        (12.345, "12.35"),
        (1234.5, "1,234"),
    ],
)
def test_cell(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_a_run_named_as_what_was_chosen_for_it_is_named_once() -> None:
    runs = pd.DataFrame({"run": ["a", "b"], "model": ["a", "b"], "status": "finished", "seed": [1, 2]})
    assert unrepeated(runs, list(runs.columns)) == ["model", "seed"]
    assert unrepeated(runs.assign(model="a", status=["finished", "failed"]), list(runs.columns)) == list(runs.columns)


def test_the_ends_of_an_interval_are_no_columns_of_their_own() -> None:
    assert without_ends(pd.DataFrame(columns=["d", "d_low", "d_high", "low"])) == ["d", "low"]


def test_nothing_in_a_name_is_run_by_who_opens_the_table(tmp_path: Path) -> None:
    names = ["=cmd|' /C calc'!A0", "<script>alert(1)</script>", "[x](javascript:y)", "[red]a\x1b[31m"]
    runs = pd.DataFrame({"name": names, "accuracy": [0.1, 0.2, 0.3, 0.4]})
    to_csv(runs, list(runs), tmp_path / "runs.csv")
    assert pd.read_csv(tmp_path / "runs.csv")["name"][0] == "'=cmd|' /C calc'!A0"
    markdown = to_markdown(runs, list(runs), "")
    assert not any(bad in markdown for bad in ("<script", "](javascript", "\x1b"))
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(to_terminal(runs, list(runs), ""))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]a%1B[31m" in shown
    assert "\x1b" not in shown


RUNS = pd.DataFrame(
    {
        "run": ["cnn_vit", "<b>bold</b>", "none"],
        "test/roc_auc": [0.9, 0.8, float("nan")],
        "test/roc_auc_low": [0.85, 0.7, float("nan")],
        "test/roc_auc_high": [0.95, 0.9, float("nan")],
        "epochs": [3, 4, 5],
    }
)


@pytest.fixture
def report() -> Report:
    differences = pd.DataFrame({"a": ["cnn_vit"], "b": ["<b>bold</b>"], "p": [0.03]})
    return Report(
        "Three runs & more",
        RUNS,
        ["run", "test/roc_auc", "epochs"],
        "test/roc_auc",
        sections=[Section("Differences", differences, "Holm."), Section("Nothing", differences.iloc[:0])],
        notes=["2 samples have no score"],
    )


def test_markdown_holds_tables_remarks_and_notes(report: Report) -> None:
    text = report_to_markdown(report)
    assert "| **cnn_vit** | **0.900 [0.850, 0.950]** | **3** |" in text
    assert "## Differences" in text
    assert "Holm." in text
    assert "## Nothing\n\nNone." in text
    assert "- 2 samples have no score" in text


def test_terminal_shows_the_same(report: Report) -> None:
    written = io.StringIO()
    Console(file=written, width=100).print(report_to_terminal(report))
    shown = written.getvalue()
    assert all(word in shown for word in ("cnn_vit", "0.900 [0.850, 0.950]", "Differences", "Nothing: none", "note: 2"))
