"""Tables, charts and pictures to one HTML page that needs nothing else: no network, no font, no script from elsewhere.

Every text is escaped, and the page forbids the browser all but its own style and script (Content-Security-Policy), so
that a file or run may be called whatever a stranger likes. Knows neither runs nor studies.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from deepfake.tracking import tables
from deepfake.tracking.figures.svg import MOST, escape, legend
from deepfake.tracking.run_folder import write_text
from deepfake.tracking.tables import Report

#: The name of a page in a run's and a sweep's folder, and among artifacts.
PAGE = "report.html"
_FILTERED = 20  # rows from which on a table can be filtered
_TALL = 25  # rows from which on a table scrolls by itself
_LONG, _FIRST = 300, 200  # rows from which on so many are laid out before all are asked for
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def page(title: str, parts: Sequence[str], held: Mapping[str, object] | None = None) -> str:
    """The whole page.

    Args:
        title: For the browser's tab; a text.
        parts: HTML, made by the functions of this module.
        held: What the script draws when asked to: ``charts``, ``names`` and ``most``; see :func:`slots`.
    """
    template, policy = _template()
    # No end of an element may stand in what the script reads.
    kept = json.dumps(held or {}, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    filled = {"policy": policy, "title": escape(title), "body": "\n".join(parts), "held": kept}
    # In one pass, so that nothing in a text is taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], template)


@functools.cache
def _template() -> tuple[str, str]:
    """The template, and the policy that allows its own style and script and nothing else."""
    text = resources.files("deepfake.tracking").joinpath("page.html").read_text(encoding="utf-8")
    digests = [
        base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        for pattern in (_STYLE, _SCRIPT)
        if (found := pattern.search(text)) is not None
    ]
    style, script = digests
    return text, (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def section(title: str, *parts: str) -> str:
    """A headed part of a page; nothing where all parts are empty."""
    inner = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{inner}</section>" if inner else ""


def text(words: str, kind: str = "") -> str:
    """A paragraph; ``kind`` is ``note`` for a warning, ``soft`` for a remark. Nothing for no words."""
    named = f' class="{kind}"' if kind else ""
    return f"<p{named}>{escape(words)}</p>" if words else ""


def heading(words: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(words)}</h3>"


def side_by_side(*parts: str) -> str:
    """Parts beside each other as far as there is room."""
    return f'<div class="row">{"".join(part for part in parts if part)}</div>'


def figure(caption: str, drawing: str, remark: str = "") -> str:
    """A drawing with its caption; ``drawing`` is HTML."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawing}{text(remark, 'soft')}</figure>"


def absent(caption: str, reason: str) -> str:
    """In place of a drawing: why there is none."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{text(reason, 'soft')}</figure>"


def tiles(items: Sequence[tuple[str, str, str]]) -> str:
    """Large numbers: name, value, and a remark on each."""
    inner = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(remark)}</span></div>'
        for name, value, remark in items
    )
    return f'<div class="tiles">{inner}</div>' if items else ""


def facts(pairs: Mapping[str, object]) -> str:
    """Names and what they are, a line each; those that are nothing are left out."""
    lines = [
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs.items() if value not in ("", None)
    ]
    return f"<dl>{''.join(lines)}</dl>" if lines else ""


def folded(summary: str, *parts: str) -> str:
    """Parts that are opened by a click."""
    inner = "".join(part for part in parts if part)
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>" if inner else ""


def verbatim(words: str) -> str:
    """A text with its line ends."""
    return f"<pre>{escape(words)}</pre>"


def link(words: str, target: str) -> str:
    """A link to a file; ``target`` is a relative or ``file:`` address."""
    return f'<a href="{escape(target)}">{escape(words)}</a>'


def address(name: str) -> str:
    """A relative path as an address that stays one, whatever stands in it."""
    # The dot keeps a name with a colon from being taken for a scheme.
    return "./" + quote(name, errors="surrogateescape")


def addresses(places: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """The pages that lie in these folders, by the same names, as seen from another folder."""
    return {
        name: address(os.path.relpath(place / PAGE, folder))
        for name, place in places.items()
        if (place / PAGE).is_file()
    }


def links(targets: Mapping[str, str]) -> str:
    """Links by what they say, in a line."""
    return f"<p>{' · '.join(link(words, target) for words, target in targets.items())}</p>" if targets else ""


def faces(items: Sequence[tuple[bool, bytes | None, str, Sequence[str], str]]) -> str:
    """Pictures of samples.

    Args:
        items: Whether it is fake, a JPEG file (None where the crop is gone), the sample's name, lines below it, and the
            address of its file (may be empty).
    """
    shown = []
    for fake, jpeg, name, lines, target in items:
        picture = '<span class="none">no crop</span>'
        if jpeg is not None:
            data = base64.b64encode(jpeg).decode("ascii")
            picture = f'<img alt="{escape(f"face of {name}")}" src="data:image/jpeg;base64,{data}">'
        said = "<br>".join(escape(line) for line in lines)
        named = link(name, target) if target else escape(name)
        shown.append(f'<li class="{"fake" if fake else "real"}">{picture}{said}<br><bdi>{named}</bdi></li>')
    return f'<ul class="faces">{"".join(shown)}</ul>'


def table(
    rows: pd.DataFrame,
    columns: Sequence[str],
    by: str = "",
    *,
    caption: str = "",
    addresses: Mapping[str, str] | None = None,
    drawn: int | None = None,
) -> str:
    """A table that a click on a heading sorts; a long one can be filtered.

    Args:
        rows: Columns ``<name>_low`` and ``<name>_high`` show as an interval behind ``<name>``.
        columns: Which to show, in order.
        by: The column it is sorted by; its first row is marked as best.
        caption: What it is of, for those who do not see it.
        addresses: What the first column's texts link to.
        drawn: Where charts have slots: so many rows are drawn at first, and each gets a box.
    """
    numeric = [pd.api.types.is_numeric_dtype(rows[column]) for column in columns]
    order = "" if not by else "descending" if tables.descending(rows, by) else "ascending"
    heads = [_head(name, kind, order if name == by else "") for name, kind in zip(columns, numeric, strict=True)]
    heads = heads if drawn is None else ['<th scope="col" class="draw">Draw</th>', *heads]
    best = tables.best_place(rows, by) if by else None
    values = [rows[column].tolist() for column in columns]
    lines = []
    for place, texts in enumerate(tables.cells(rows, columns)):
        inner = [
            _cell(words, values[column][place], kind)
            for column, (words, kind) in enumerate(zip(texts, numeric, strict=True))
        ]
        if addresses and (target := addresses.get(texts[0])):
            inner[0] = f"<td>{link(texts[0], target)}</td>"
        if drawn is not None:
            checked = " checked" if place < drawn else ""
            said = escape(f"draw {texts[0]}")
            inner.insert(
                0, f'<td class="draw"><input type="checkbox" data-run="{place}"{checked} aria-label="{said}"></td>'
            )
        kind = ' class="best"' if place == best else ""
        lines.append(f"<tr{kind}>{''.join(inner)}</tr>")
    region = f' role="region" tabindex="0" aria-label="{escape(caption or "table")}"'
    tall = " tall" if len(rows) > _TALL else ""
    search = ""
    if len(rows) > _FILTERED:
        search = (
            '<label class="filter">Filter <input type="search" placeholder="words of a row"><output></output></label>'
        )
    more = f'<button type="button" class="more" data-most="{_FIRST}" hidden></button>' if len(rows) > _LONG else ""
    return (
        f'<div class="part">{search}<div class="wide{tall}"{region}><table><thead><tr>{"".join(heads)}</tr>'
        f"</thead><tbody>{chr(10).join(lines)}</tbody></table></div>{more}</div>"
    )


def _head(column: str, number: bool, order: str) -> str:
    direction = f' aria-sort="{order}"' if order else ""
    kind = ' class="number"' if number else ""
    return f'<th scope="col"{kind}{direction}><button type="button">{escape(tables.heading(column))}</button></th>'


def _cell(words: str, value: object, number: bool) -> str:
    if not number:
        return f"<td>{escape(words)}</td>"
    key = "" if pd.isna(value) else repr(float(value))  # type: ignore[call-overload, arg-type]
    return f'<td class="number" data-value="{key}">{escape(words)}</td>'


def slots(name: str, caption: str, drawing: str, labels: Sequence[str]) -> str:
    """A chart whose lines the script exchanges; see :meth:`deepfake.tracking.figures.svg.Plot.slots`.

    Args:
        name: By which ``held["charts"]`` has the paths of all runs.
        caption: What it shows.
        drawing: The SVG.
        labels: Of the lines that are drawn at first.
    """
    keys = []
    for place in range(MOST):
        label = labels[place] if place < len(labels) else ""
        hidden = "" if label else " hidden"
        keys.append(
            f'<li data-slot="{place}"{hidden}><svg aria-hidden="true" width="26" height="12">'
            f'<path class="line s{place}" d="M0 6H26"/></svg><bdi>{escape(label)}</bdi></li>'
        )
    shown = f"<figcaption>{escape(caption)}</figcaption>{drawing}{legend(keys)}"
    return f'<figure data-chart="{escape(name)}">{shown}</figure>'


def report_page(report: Report) -> str:
    """A comparison of runs as a page."""
    drawn = MOST if report.curves else None
    names = [str(name) for name in report.runs["run"]] if drawn else []
    held = {"charts": report.curves, "names": names, "most": MOST}
    body = [f"<h1>{escape(report.title)}</h1>", *report.opening, *(text(note, "note") for note in report.notes)]
    if len(report.runs):
        board = table(
            report.runs, report.columns, report.by, caption="leaderboard", addresses=report.addresses, drawn=drawn
        )
        body.append(section("Leaderboard", board))
    body.append(section("Figures", side_by_side(*report.charts)) if report.charts else "")
    for part in report.sections:
        shown = table(part.rows, tables.without_ends(part.rows), caption=part.heading) if len(part.rows) else ""
        body.append(section(part.heading, text(part.remark), shown or text("None.")))
    return page(report.title, body, held if report.curves else None)


def write_report(report: Report, folder: Path, formats: Sequence[str] = ("markdown", "csv", "html")) -> list[Path]:
    """Write ``comparison.md``, ``comparison.csv`` and ``report.html``, or those asked for; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in formats:
        if kind == "html":
            paths.append(write_page(folder, report_page(report)))
        elif kind == "csv":
            paths.append(folder / "comparison.csv")
            tables.to_csv(report.runs, report.columns, paths[-1])
        else:
            paths.append(folder / "comparison.md")
            write_text(paths[-1], tables.report_to_markdown(report))
    return paths


def write_page(folder: Path, whole: str) -> Path:
    """``report.html`` in a folder, which appears whole."""
    path = folder / PAGE
    write_text(path, whole)
    return path
