"""``deepfake ensemble RUN RUN…``: several runs as one whose score is their average."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from deepfake.config import load_config
from deepfake.errors import UserError, harmless
from deepfake.metrics import METRICS, metric_names
from deepfake.options import split_override
from deepfake.runs.console import Console
from deepfake.runs.ensemble import join_runs, make_ensemble
from deepfake.runs.saved_config import ENSEMBLE, read_changes, read_overrides
from deepfake.tracking.run_record import RunRecord
from deepfake.tracking.search import find_runs
from deepfake.tracking.store import locate

EXAMPLES = (
    ("deepfake ensemble cnn_gru cnn_lstm cnn_vit name=three", "their mean log-odds, as a run named three"),
    ("deepfake ensemble best:lr_batch lr_batch:3 evaluation.clips=log_odds", "a study's best and another trial"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and what the ensemble is called."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="ids, names, folders, STUDY:NUMBER or best:STUDY")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="name=ensemble, evaluation.*, tracking.*, paths.outputs=…"
    )


def main(arguments: argparse.Namespace) -> int:
    """Average, keep, tell."""
    console = Console()
    words = [*arguments.runs, *arguments.overrides]
    # What a folder is called may hold an equals sign.
    named = [word for word in words if "=" not in word or Path(word).exists()]
    join(named, [word for word in words if word not in named], console)
    return 0


def join(named: Sequence[str], overrides: Sequence[str], console: Console) -> RunRecord:
    """Make an ensemble of some runs.

    Args:
        named: The runs.
        overrides: Its name, how clips' scores become a sample's, and where things are kept.
        console: Told what came of it.

    Raises:
        UserError: They cannot be averaged; see :func:`deepfake.runs.ensemble.join_runs`.
    """
    name, others = "ensemble", []
    for text in overrides:
        key, value = split_override(text)
        if key == "name":
            name = value
        else:
            others.append(text)
    read_overrides(others, ENSEMBLE)
    changes = read_changes(others)
    store = locate(load_config(changes.config).tracking, changes.outputs)
    if len(named) < 2:
        raise UserError("an ensemble of one run is that run", "name two runs or more")
    joined = join_runs(find_runs(named, store, changes.outputs))
    for note in joined.notes:
        console.warn(note)
    record = make_ensemble(joined, name, changes, store, console)
    console.table(_table(record))
    console.say(f"run: {record.places[0]}")
    return record


def _table(record: RunRecord) -> Table:
    """Each member and their average, on the same samples."""
    names, metrics = metric_names(headline=True), record.metrics()
    table = Table("run", title="on the test samples that all were tested on", title_justify="left")
    for name in names:
        table.add_column(METRICS[name].heading, justify="right")
    for member in record.members():
        shown = ("–" if name not in member.metrics else f"{member.metrics[name]:.4f}" for name in names)
        table.add_row(Text(harmless(member.name)), *shown)
    cells = []
    for name in names:
        value, low, high = (metrics.get(f"test/{name}{end}") for end in ("", "_low", "_high"))
        interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
        cells.append("–" if value is None else f"{value:.4f}{interval}")
    table.add_section()
    table.add_row(Text(harmless(record.name)), *cells)
    return table
