"""Pages that need nothing else and run nothing but their own script."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
from pathlib import Path

import pandas as pd
import pytest

from deepfake.tracking import page
from deepfake.tracking.figures import svg
from deepfake.tracking.tables import Report, Section

NAN = float("nan")
HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
RUNS = pd.DataFrame(
    {
        "run": ["cnn_vit", "<b>bold</b>", "none"],
        "test/roc_auc": [0.9, 0.8, NAN],
        "test/roc_auc_low": [0.85, 0.7, NAN],
        "test/roc_auc_high": [0.95, 0.9, NAN],
        "epochs": [3, 4, 5],
    }
)


@pytest.fixture
def report() -> Report:
    differences = pd.DataFrame({"a": ["cnn_vit"], "b": ["<b>bold</b>"], "p": [0.03]})
    plot = svg.Plot(svg.Axis("x", 0, 1), svg.Axis("y", 0, 1))
    paths = [plot.path([0, 1], [0, 1]), plot.path([0, 1], [1, 0]), ""]
    return Report(
        "Three runs & more",
        RUNS,
        ["run", "test/roc_auc", "epochs"],
        "test/roc_auc",
        sections=[Section("Differences", differences, "Holm."), Section("Nothing", differences.iloc[:0])],
        notes=["2 samples have no score"],
        charts=[page.slots("roc", "ROC", plot.slots(paths).svg("ROC"), list(RUNS["run"]))],
        curves={"roc": paths},
    )


class Seen(html.parser.HTMLParser):
    """Collects what a page asks a browser to load or run, and its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "td" and data.strip():
            self.cells.append(data.strip())


def test_page_loads_nothing_from_elsewhere(report: Report) -> None:
    text = page.report_page(report)
    assert Seen(text).loaded == []
    assert not re.search(r"@import|url\(|fetch\(|https?://", text)


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else() -> None:
    text = page.page("x", [])
    found = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert found is not None
    policy = dict(part.strip().split(" ", 1) for part in found[1].split(";"))
    assert policy["default-src"] == "'none'"
    for kind, element in (("style-src", "style"), ("script-src", "script")):
        inner = re.search(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        assert inner is not None
        assert policy[kind] == f"'sha256-{base64.b64encode(hashlib.sha256(inner[1].encode()).digest()).decode()}'"


def test_page_shows_every_run_and_escapes_names(report: Report) -> None:
    text = page.report_page(report)
    assert "<b>bold</b>" not in text
    cells = Seen(text).cells
    assert cells[:3] == ["cnn_vit", "0.900 [0.850, 0.950]", "3"]
    assert "–" in cells


def test_page_sorts_by_numbers_not_by_their_text(report: Report) -> None:
    text = page.report_page(report)
    assert 'data-value="0.9"' in text
    assert 'data-value=""' in text


def test_page_names_the_column_it_is_sorted_by(report: Report) -> None:
    text = page.report_page(report)
    assert text.count('<th scope="col"') == 7
    assert 'aria-sort="descending"><button type="button">ROC-AUC' in text


def test_nothing_in_a_text_is_markup_or_runs() -> None:
    rows = pd.DataFrame({HOSTILE: [HOSTILE], "n": [1.0]})
    plot = svg.Plot(svg.Axis(HOSTILE, 0, 1), svg.Axis(HOSTILE, 0, 1, names=[HOSTILE]))
    plot.line([0, 1], [0, 1], 0, HOSTILE).points([0.5], [0.5], 1, HOSTILE, [HOSTILE]).upright(0.5, HOSTILE)
    parts = [
        page.section(HOSTILE, page.text(HOSTILE), page.heading(HOSTILE), page.verbatim(HOSTILE)),
        page.figure(HOSTILE, plot.svg(HOSTILE), HOSTILE),
        page.absent(HOSTILE, HOSTILE),
        page.tiles([(HOSTILE, HOSTILE, HOSTILE)]),
        page.facts({HOSTILE: HOSTILE}),
        page.folded(HOSTILE, page.links({HOSTILE: page.address(HOSTILE)})),
        page.faces([(True, None, HOSTILE, [HOSTILE], page.address(HOSTILE)), (False, b"\xff", HOSTILE, [], "")]),
        page.table(rows, list(rows), caption=HOSTILE, addresses={HOSTILE: HOSTILE}, drawn=1),
        page.slots(HOSTILE, HOSTILE, "", [HOSTILE]),
        svg.whiskers([(HOSTILE, 0.5, 0.4, 0.6)], HOSTILE, HOSTILE),
        svg.bars([(HOSTILE, 0.5)], HOSTILE),
        svg.cells([[1, 2], [3, 4]], [HOSTILE, HOSTILE], [HOSTILE, HOSTILE], HOSTILE),
        svg.parallel([{HOSTILE: HOSTILE, "y": 1.0}], [HOSTILE], "y", HOSTILE),
    ]
    usual = Seen(page.page("title", []))
    seen = Seen(page.page(HOSTILE, parts, {"names": [HOSTILE]}))
    assert seen.tags.count("script") == usual.tags.count("script") == 2
    assert seen.handlers == []
    # The only picture is the one that was given.
    assert [source for source in seen.loaded if "data:" in source] == ["data:image/jpeg;base64,/w=="]
    assert seen.tags.count("img") == 1


def test_passwords_of_addresses_are_masked_and_control_characters_shown() -> None:
    assert page.text("http://me:secret@host/x \x1b \udcff") == "<p>http://me:***@host/x %1B %FF</p>"


def test_a_name_that_looks_like_an_address_stays_a_file() -> None:
    assert page.address("javascript:alert(1)") == "./javascript%3Aalert%281%29"


def test_a_text_that_names_a_place_of_the_template_is_a_text() -> None:
    assert "<p>{{held}} {{body}}</p>" in page.page("{{body}}", [page.text("{{held}} {{body}}")])


def test_long_tables_can_be_filtered_and_short_ones_need_not() -> None:
    short, long = pd.DataFrame({"a": range(5)}), pd.DataFrame({"a": range(50)})
    assert 'type="search"' not in page.table(short, ["a"])
    assert 'type="search"' in page.table(long, ["a"])


def test_very_long_tables_are_laid_out_in_part_and_whole_in_the_file() -> None:
    shown = [page.table(pd.DataFrame({"a": range(rows)}), ["a"]) for rows in (300, 301)]
    assert ["button" in text and 'class="more"' in text for text in shown] == [False, True]
    assert shown[1].count("<tr>") == 302


def test_three_files_are_written(report: Report, tmp_path: Path) -> None:
    paths = page.write_report(report, tmp_path / "out")
    assert [path.name for path in paths] == ["comparison.md", "comparison.csv", "report.html"]
    assert list(pd.read_csv(paths[1])["test/roc_auc_low"].dropna()) == [0.85, 0.7]


def test_the_same_report_is_the_same_page(report: Report) -> None:
    assert page.report_page(report) == page.report_page(report)


@pytest.mark.parametrize("runs", [pd.DataFrame(), RUNS.iloc[:0], RUNS.iloc[:1]])
def test_a_page_of_no_run_or_one(runs: pd.DataFrame) -> None:
    columns = list(RUNS) if len(runs) else []
    assert "nothing yet" in page.report_page(Report("t", runs, columns, "", notes=["nothing yet"]))
