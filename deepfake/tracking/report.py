"""A comparison of runs for the terminal, as Markdown, as CSV and as one HTML page that needs no network.

Arranges tables and figures computed elsewhere; knows neither MLflow nor statistics.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import pandas as pd
from rich.console import Group
from rich.text import Text

from deepfake.tracking import tables
from deepfake.tracking.run_folder import write_text


@dataclass(frozen=True)
class Section:
    """A further table: which differences are real, which parameters differ."""

    heading: str
    rows: pd.DataFrame
    remark: str = ""


@dataclass(frozen=True)
class Report:
    """What a comparison says.

    Attributes:
        title: What was compared.
        runs: The leaderboard, best first; see :func:`deepfake.tracking.tables.rank`. Columns ``<metric>_low`` and
            ``<metric>_high`` show as an interval behind the metric.
        columns: Which of its columns to show, in order.
        by: The metric it is sorted by.
        sections: Further tables.
        figures: PNG files by caption.
        notes: What a reader must know to read the numbers rightly.
    """

    title: str
    runs: pd.DataFrame
    columns: Sequence[str]
    by: str
    sections: Sequence[Section] = ()
    figures: Mapping[str, Path] = field(default_factory=dict)
    notes: Sequence[str] = ()


def to_terminal(report: Report) -> Group:
    """Everything but the figures, for rich to print."""
    parts: list[object] = [tables.to_terminal(report.runs, report.columns, report.by, report.title)]
    for section in report.sections:
        if section.rows.empty:
            parts.append(Text(f"{section.heading}: none"))
            continue
        parts.append(tables.to_terminal(section.rows, tables.without_ends(section.rows), "", section.heading))
        parts += [Text(section.remark, style="dim")] if section.remark else []
    parts += [Text(f"note: {note}") for note in report.notes]
    return Group(*parts)  # type: ignore[arg-type]


def to_markdown(report: Report) -> str:
    """Everything but the figures, for a README or an issue."""
    parts = [f"# {report.title}", tables.to_markdown(report.runs, report.columns, report.by)]
    for section in report.sections:
        parts.append(f"## {section.heading}")
        parts.append(
            tables.to_markdown(section.rows, tables.without_ends(section.rows), "") if len(section.rows) else "None."
        )
        parts += [section.remark] if section.remark else []
    if report.notes:
        parts.append("\n".join(f"- {note}" for note in report.notes))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def to_html(report: Report) -> str:
    """One page with its styles, its script and its figures inside; click a heading to sort by it."""
    body = [f"<h1>{html.escape(report.title)}</h1>"]
    body += [f'<p class="note">{html.escape(note)}</p>' for note in report.notes]
    body.append(_table(report.runs, report.columns, report.by))
    for section in report.sections:
        body.append(f"<h2>{html.escape(section.heading)}</h2>")
        body += [f"<p>{html.escape(section.remark)}</p>"] if section.remark else []
        body.append(
            _table(section.rows, tables.without_ends(section.rows), "") if len(section.rows) else "<p>None.</p>"
        )
    body += [_figure(caption, path) for caption, path in report.figures.items()]
    page = resources.files("deepfake.tracking").joinpath("page.html").read_text(encoding="utf-8")
    return page.replace("{{title}}", html.escape(report.title)).replace("{{body}}", "\n".join(body))


def write(
    report: Report, folder: Path, name: str = "comparison", formats: Sequence[str] = ("markdown", "csv", "html")
) -> list[Path]:
    """Write ``<name>.md``, ``<name>.csv`` and ``<name>.html``, or those asked for; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, tuple[str, Callable[[Path], None]]] = {
        "markdown": (".md", lambda path: write_text(path, to_markdown(report))),
        "csv": (".csv", lambda path: tables.to_csv(report.runs, report.columns, path)),
        "html": (".html", lambda path: write_text(path, to_html(report))),
    }
    paths = []
    for kind in formats:
        suffix, writer = writers[kind]
        paths.append(folder / f"{name}{suffix}")
        writer(paths[-1])
    return paths


def _table(rows: pd.DataFrame, columns: Sequence[str], by: str) -> str:
    numbers = [pd.api.types.is_numeric_dtype(rows[column]) for column in columns]
    order = "" if not by else "descending" if tables.descending(rows, by) else "ascending"
    marks = [order if column == by else "" for column in columns]
    heads = "".join(_head(*head) for head in zip(columns, numbers, marks, strict=True))
    best = tables.best_place(rows, by)
    lines = []
    for place, texts in enumerate(tables.cells(rows, columns)):
        values = [rows[column].iloc[place] for column in columns]
        inner = "".join(_cell(*cell) for cell in zip(texts, values, numbers, strict=True))
        lines.append(f'<tr class="best">{inner}</tr>' if place == best else f"<tr>{inner}</tr>")
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{_lines(lines)}</tbody></table></div>'


def _head(column: str, number: bool, order: str) -> str:
    direction = f' aria-sort="{order}"' if order else ""
    kind = ' class="number"' if number else ""
    return f'<th scope="col"{kind}{direction}><button type="button">{html.escape(tables.heading(column))}</button></th>'


def _cell(text: str, value: object, number: bool) -> str:
    if not number:
        return f"<td>{html.escape(text)}</td>"
    key = "" if pd.isna(value) else repr(float(value))  # type: ignore[call-overload, arg-type]
    return f'<td class="number" data-value="{key}">{html.escape(text)}</td>'


def _figure(caption: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    named = html.escape(caption)
    return f'<figure><img alt="{named}" src="data:image/png;base64,{data}"><figcaption>{named}</figcaption></figure>'


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts)
