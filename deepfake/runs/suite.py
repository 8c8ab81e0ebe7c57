"""What the field tests on: the data sets of a suite, where they lie here, and the numbers published of them.

Reads suites and puts a run's own numbers beside published ones; scores nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.table import Table
from rich.text import Text

from deepfake.errors import UserError, harmless, nearest
from deepfake.installation import CONF
from deepfake.metrics import METRICS
from deepfake.options import override_value

#: The environment's variable that names the folder in which data sets lie by their usual names.
DATA = "DEEPFAKE_DATA"
#: What a published number is of; single frames' are kept apart from samples'.
LEVELS = {"video": "", "image": "", "frame": "frame/"}
_FOLDER = CONF / "suite"
#: Keys of a suite, of one of its sets, and of a row of published numbers; a set's other keys are ``dataset.*`` ones.
_SUITE, _SET = ("trained_on", "sets", "published"), ("dataset", "folder", "split", "root", "table")
_ROW = ("system", "paper", "table", "level", "metric", "note", "values")


@dataclass(frozen=True)
class Published:
    """A number that somebody published of a system on a set.

    Attributes:
        system: Which detector.
        set: Which set of the suite.
        value: The number, from 0 to 1.
        level: ``video``, ``image`` or ``frame``.
        metric: Such as ``roc_auc``.
        paper: Where it was published.
        table: Where in it.
        note: What a reader must know of it.
    """

    system: str
    set: str
    value: float
    level: str
    metric: str
    paper: str
    table: str
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """One data set of a suite.

    Attributes:
        overrides: What says which it is, and where.
        split: Which part of it is scored.
        key: What the suite calls it; empty in a plain list of data sets.
        folders: What its folder is usually called.
    """

    overrides: Sequence[str]
    split: str
    key: str = ""
    folders: Sequence[str] = ()


@dataclass(frozen=True)
class Suite:
    """Data sets that are scored one after the other.

    Attributes:
        entries: Those that are there.
        missing: Why others are not, by key.
        published: What was published of all of them.
        trained_on: What the published systems were trained on.
    """

    entries: Sequence[Entry]
    missing: Mapping[str, str] = field(default_factory=dict)
    published: Sequence[Published] = ()
    trained_on: str = ""


def open_suite(text: str, split: str, roots: Mapping[str, str], data: str | None) -> Suite:
    """A suite, with its sets found on this machine.

    Args:
        text: A suite of ``conf/suite`` by its name, a YAML file, or a list such as ``[{dataset: images, root: /a,
            split: all}, {dataset: dfdc, root: /b}]``; the keys beside ``dataset`` and ``split`` are ``dataset.*`` ones.
            A relative root in a file is relative to the file.
        split: Of an entry that names none.
        roots: Where sets lie, by their keys.
        data: A folder in which the others lie by their usual names; None for the one that ``DEEPFAKE_DATA`` names.

    Raises:
        UserError: No such suite, one of another form, a root of no set or that is not there, or no set that is there.
    """
    found, folder = _read(text)
    if isinstance(found, list) and found:
        if roots:
            raise UserError(
                f"suite.roots.{next(iter(roots))} names a set of a suite, and suite={text} is a plain list",
                "give each its root in the list: {dataset: images, root: /a}",
            )
        return Suite([_entry(entry, number, split, folder) for number, entry in enumerate(found)])
    if isinstance(found, Mapping):
        return _located(_named_suite(text, found, split, folder), roots, data or os.environ.get(DATA), text)
    raise UserError(f"suite={text} is not a list of data sets", "- {dataset: images, root: /a}, one a line")


def _read(text: str) -> tuple[Any, Path | None]:
    """What the suite holds, and the folder of its file; None of one that was typed."""
    inline = text.lstrip().startswith("[")
    file = Path(text).expanduser()
    if not inline and not file.is_file() and "/" not in text:
        file = _FOLDER / f"{text}.yaml"
    if not inline and not file.is_file():
        known = sorted(path.stem for path in _FOLDER.glob("*.yaml"))
        raise UserError(
            f"suite={text} is no file and none of the suites that come along",
            f"{nearest(text, known)}; or name a YAML file with a list of data sets, or write the list",
        )
    try:
        found = yaml.safe_load(text if inline else file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"suite={text} is no YAML: {error}", "write a list of data sets") from error
    return found, None if inline else file.parent


def _entry(entry: object, number: int, split: str, folder: Path | None) -> Entry:
    if not isinstance(entry, Mapping) or "dataset" not in entry:
        raise UserError(f"entry {number} of the suite names no dataset: {entry!r}", "write {dataset: images, root: /a}")
    return Entry(_overrides(entry, folder), str(entry.get("split", split)))


def _overrides(entry: Mapping[Any, Any], folder: Path | None) -> list[str]:
    values: dict[str, Any] = {str(key): value for key, value in entry.items()}
    for key in ("root", "table"):
        if folder is not None and values.get(key) is not None and not Path(str(values[key])).expanduser().is_absolute():
            values[key] = str((folder / str(values[key])).absolute())
    kept = {key: value for key, value in values.items() if key not in ("dataset", "split", "folder")}
    return [f"dataset={values['dataset']}", *(f"dataset.{key}={override_value(value)}" for key, value in kept.items())]


def _named_suite(text: str, found: Mapping[Any, Any], split: str, folder: Path | None) -> Suite:
    _check_keys(found, _SUITE, f"suite={text}")
    sets = found.get("sets")
    if not isinstance(sets, Mapping) or not sets:
        raise UserError(f"suite={text} names no sets", "write sets: {celebdf: {dataset: celebdf, folder: Celeb-DF-v2}}")
    entries: list[Entry] = []
    for key, entry in sets.items():
        one = _entry(entry, len(entries), split, folder)
        usual = entry.get("folder", ())
        folders = [usual] if isinstance(usual, str) else [str(name) for name in usual]
        named = [] if "name" in entry else [f"dataset.name={override_value(str(key))}"]
        entries.append(replace(one, overrides=[*one.overrides, *named], key=str(key), folders=folders))
    rows = [one for row in found.get("published") or () for one in _published(row, sets, text)]
    return Suite(entries, {}, rows, str(found.get("trained_on", "")))


def _published(row: object, sets: Mapping[Any, Any], text: str) -> Iterable[Published]:
    if not isinstance(row, Mapping) or not isinstance(row.get("values"), Mapping):
        raise UserError(f"suite={text} has a published row without values: {row!r}", "write {system: …, values: {…}}")
    _check_keys(row, _ROW, f"a published row of suite={text}")
    level, metric = str(row.get("level")), str(row.get("metric", "roc_auc"))
    where = f"suite={text}: {row.get('system')}"
    if level not in LEVELS:
        raise UserError(f"{where} has the level {level!r}", f"a level is {', '.join(LEVELS)}")
    if metric not in METRICS:
        raise UserError(f"{where} has the metric {metric!r}", nearest(metric, METRICS))
    for key, value in row["values"].items():
        if key not in sets:
            raise UserError(f"{where} has a value of {key!r}, which is no set of the suite", nearest(str(key), sets))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise UserError(f"{where} has {value!r} on {key}", "values lie between 0 and 1")
        told = (str(row.get(name, "")) for name in ("paper", "table", "note"))
        yield Published(str(row.get("system")), str(key), float(value), level, metric, *told)


def _check_keys(given: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{where} has the key {key!r}", nearest(str(key), known))


def _located(suite: Suite, roots: Mapping[str, str], data: str | None, text: str) -> Suite:
    keys = [entry.key for entry in suite.entries]
    for key, root in roots.items():
        if key not in keys:
            raise UserError(f"suite.roots.{key} is of no set of suite={text}", nearest(key, keys))
        if not Path(root).expanduser().exists():
            raise UserError(f"suite.roots.{key}={root} does not exist", "give the folder of the set, or leave it out")
    there, missing = [], {}
    for entry in suite.entries:
        where = [roots[entry.key]] if entry.key in roots else _usual_places(entry, data)
        if any(one.startswith(("dataset.root=", "dataset.table=")) for one in entry.overrides):
            there.append(entry)
        elif where:
            there.append(replace(entry, overrides=[*entry.overrides, f"dataset.root={override_value(where[0])}"]))
        else:
            looked = f"not in {data} as {' or '.join(entry.folders)}" if data else f"{DATA} is not set"
            missing[entry.key] = f"{looked}, and suite.roots.{entry.key} is not typed"
    if not there:
        raise UserError(
            f"none of the sets of suite={text} is there: {', '.join(keys)}",
            f"say where they lie: suite.roots.{keys[0]}=/data/…, or suite.root=/data (or {DATA}) for a folder of all, "
            f"called {', '.join(name for entry in suite.entries[:3] for name in entry.folders[:1])} …",
        )
    return replace(suite, entries=there, missing=missing)


def _usual_places(entry: Entry, data: str | None) -> list[str]:
    above = None if data is None else Path(data).expanduser().absolute()
    return [] if above is None else [str(above / name) for name in entry.folders if (above / name).is_dir()]


def beside_published(suite: Suite, values: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """A run's own numbers beside published ones of the same set, level and metric.

    Args:
        suite: With what was published.
        values: The run's metrics on each set that was scored, by the set's key.

    Returns:
        A row for each published number of these sets: ``set``, ``level``, ``metric``, ``ours``, ``ours_low``,
        ``ours_high`` (NaN where there is none: a head may say nothing of single frames), ``system``, ``published``,
        ``paper``, ``table`` and ``note``.
    """
    rows = []
    for one in suite.published:
        if one.set not in values:
            continue
        name, found = f"{LEVELS[one.level]}{one.metric}", values[one.set]
        ours = {f"ours{end}": found.get(f"{name}{end}", float("nan")) for end in ("", "_low", "_high")}
        told = {"system": one.system, "published": one.value, "paper": one.paper, "table": one.table, "note": one.note}
        rows.append({"set": one.set, "level": one.level, "metric": one.metric, **ours, **told})
    columns = (
        "set",
        "level",
        "metric",
        "ours",
        "ours_low",
        "ours_high",
        "system",
        "published",
        "paper",
        "table",
        "note",
    )
    return pd.DataFrame(rows, columns=list(columns))


def published_table(run: str, trained_on: str, suite: Suite, values: Mapping[str, Mapping[str, float]]) -> Table:
    """A column for each set that was scored: the run's numbers at each level, then each published system's."""
    table = Table(
        "",
        "of",
        title=f"{run} (trained on {trained_on}) beside what was published",
        title_justify="left",
        show_lines=False,
    )
    for key in values:
        table.add_column(Text(harmless(key)), justify="right")
    of = dict.fromkeys(
        [("video", "roc_auc"), *((one.level, one.metric) for one in suite.published if one.set in values)]
    )
    for level, metric in of:
        cells = [_cell(found, f"{LEVELS[level]}{metric}") for found in values.values()]
        if any(cells) or level != "frame":
            table.add_row(Text(harmless(run), "bold"), _told(level, metric), *cells)
    table.add_section()
    systems: dict[tuple[str, str, str], dict[str, float]] = {}
    for one in suite.published:
        systems.setdefault((one.system, one.level, one.metric), {})[one.set] = one.value
    for (system, level, metric), known in systems.items():
        cells = ["" if key not in known else f"{known[key]:.3f}" for key in values]
        if any(cells):
            table.add_row(Text(system), _told(level, metric), *cells)
    return table


def sources(suite: Suite) -> list[str]:
    """Where the published numbers are from, a line for each system and level."""
    told = [f"published systems were trained on {suite.trained_on}"] if suite.trained_on else []
    by_place = {f"{one.system}, {one.level}: {one.paper}, {one.table}": one.note for one in suite.published}
    return [*told, *(f"{place}{f' ({note})' if note else ''}" for place, note in by_place.items())]


def _told(level: str, metric: str) -> str:
    """What a number is of: as people are told of a level, and of a metric that is not the usual one."""
    return level if metric == "roc_auc" else f"{level}, {METRICS[metric].title}"


def _cell(found: Mapping[str, float], name: str) -> str:
    if name not in found:
        return ""
    low, high = found.get(f"{name}_low"), found.get(f"{name}_high")
    return f"{found[name]:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")
