from __future__ import annotations

import html.parser
import io
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from deepfake.tracking.figures import curves
from deepfake.tracking.figures.style import save
from deepfake.tracking.tables import (
    Report,
    Section,
    report_to_html,
    report_to_markdown,
    report_to_terminal,
    write_report,
)

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
def report(tmp_path: Path) -> Report:
    figure = save(curves.learning_curves([], monitor="x"), tmp_path / "figures" / "f.png")
    differences = pd.DataFrame({"a": ["cnn_vit"], "b": ["<b>bold</b>"], "p": [0.03]})
    return Report(
        "Three runs & more",
        RUNS,
        ["run", "test/roc_auc", "epochs"],
        "test/roc_auc",
        sections=[Section("Differences", differences, "Holm."), Section("Nothing", differences.iloc[:0])],
        figures={"Learning curves": figure},
        notes=["2 samples have no score"],
    )


class Page(html.parser.HTMLParser):
    """Collects what a page asks a browser to load, and its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.cells: list[str] = []
        self.tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tag = tag
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        if self.tag == "td" and data.strip():
            self.cells.append(data.strip())


def test_page_loads_nothing_from_elsewhere(report: Report) -> None:
    text = report_to_html(report)
    assert [source[:22] for source in Page(text).loaded] == ["data:image/png;base64,"]
    assert not re.search(r"@import|url\(|fetch\(|https?://", text)


def test_page_shows_every_run_and_escapes_names(report: Report) -> None:
    text = report_to_html(report)
    assert "<b>bold</b>" not in text
    cells = Page(text).cells
    assert cells[:3] == ["cnn_vit", "0.900 [0.850, 0.950]", "3"]
    assert "–" in cells


def test_page_sorts_by_numbers_not_by_their_text(report: Report) -> None:
    assert 'data-value="0.9"' in report_to_html(report)
    assert 'data-value=""' in report_to_html(report)


def test_page_names_the_column_it_is_sorted_by(report: Report) -> None:
    assert report_to_html(report).count("<th") - report_to_html(report).count("<thead") == 6
    assert 'aria-sort="descending"><button type="button">ROC-AUC' in report_to_html(report)


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


def test_three_files_are_written(report: Report, tmp_path: Path) -> None:
    paths = write_report(report, tmp_path / "out")
    assert [path.name for path in paths] == ["comparison.md", "comparison.csv", "comparison.html"]
    assert list(pd.read_csv(paths[1])["test/roc_auc_low"].dropna()) == [0.85, 0.7]
