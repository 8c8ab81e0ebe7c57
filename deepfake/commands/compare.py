"""``deepfake compare RUN…``: a leaderboard, which differences are real, what differs in the configs, the curves."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pandas as pd

from deepfake.config import is_environment_key
from deepfake.errors import UserError
from deepfake.hydra_app import compose_run
from deepfake.metrics import METRICS, Interval, class_counts
from deepfake.runs.comparison import (
    SPLIT,
    Entry,
    Shared,
    columns_of,
    exclusion_reason,
    leaderboard,
    metric_named,
    parameters,
    read_entries,
    shared_samples,
    typed_differently,
)
from deepfake.runs.console import Console
from deepfake.runs.sweep_card import board_charts, learning_charts, new_board, roc_chart
from deepfake.tracking import page, tables
from deepfake.tracking.run_record import RunRecord
from deepfake.tracking.search import TRIAL, find_runs, matching_runs, sweep_runs
from deepfake.tracking.store import Store, locate
from deepfake.tracking.tables import Report, Section
from deepfake.training.options import EvaluationOptions
from deepfake.training.significance import EVERY_PAIR, Difference, compare_pairs

_SWEEP = "study:"
_FORMATS = ("markdown", "csv", "html")

EXAMPLES = (
    ("deepfake compare cnn_lstm cnn_gru", "two runs by name"),
    ("deepfake compare --sweep lr_batch --by test/f1", "a sweep, by F1"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, by what, and where the page goes."""
    parser.add_argument("runs", nargs="*", metavar="RUN", help="ids, names, folders, STUDY:NUMBER, or study:NAME")
    parser.add_argument("--sweep", metavar="NAME", help="the runs of a sweep")
    parser.add_argument("--experiment", metavar="NAME", help="the runs of an MLflow experiment")
    parser.add_argument("--filter", metavar="FILTER", help="runs that meet an MLflow filter: metrics.`test/f1` > 0.8")
    parser.add_argument("--by", default=f"{SPLIT}/roc_auc", metavar="METRIC", help="what to sort by")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: outputs/comparisons)")
    for name in _FORMATS:
        parser.add_argument(f"--{name}", action="store_true", help=f"write {name} (default: all three)")


def main(arguments: argparse.Namespace) -> int:
    """Read, compare, print and write."""
    console = Console()
    typed = [text for text in arguments.runs if is_environment_key(text) and "=" in text]
    config = compose_run(typed)
    store, named = locate(config.tracking, config.outputs), [text for text in arguments.runs if text not in typed]
    records, notes = _chosen(named, arguments, store, config.outputs)
    entries = read_entries(records)
    if len(entries) < 2:
        raise UserError(f"there is only one run to compare: {entries[0].label}", "name another one")
    shared = shared_samples(entries)
    options = config.evaluation
    board = leaderboard(entries, shared, options.resamples, options.level)
    by, larger = metric_named(arguments.by, board)
    ranked = tables.rank(board, by, larger_is_better=larger)
    ordered = sorted(entries, key=lambda entry: list(ranked["run"]).index(entry.label))
    charts, curves = _charts(ordered, shared, ranked, by, larger) if _asked(arguments, "html") else ([], {})
    folder = arguments.out or config.outputs / "comparisons" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    found = Report(
        title=f"{len(entries)} runs compared by {tables.heading(by)}",
        runs=ranked,
        columns=columns_of(ranked, ordered, by),
        by=by,
        sections=[_differences(ordered, shared, by, options), Section("Parameters that differ", parameters(ordered))],
        notes=[*notes, *shared.notes, _how(shared, options)],
        charts=charts,
        curves=curves,
        addresses=_addresses(ordered, folder),
    )
    console.show(tables.report_to_terminal(found))
    formats = [name for name in _FORMATS if _asked(arguments, name)]
    if "html" in formats:
        _draw(ordered, shared, ranked, folder)
    for path in page.write_report(found, folder, formats):
        console.say(f"written: {path}")
    return 0


def _asked(arguments: argparse.Namespace, name: str) -> bool:
    return getattr(arguments, name) or not any(getattr(arguments, other) for other in _FORMATS)


def _chosen(
    named: Sequence[str], arguments: argparse.Namespace, store: Store, outputs: Path
) -> tuple[list[RunRecord], list[str]]:
    """The runs that are meant, and a note on those of a whole group that cannot be compared.

    Raises:
        UserError: None is meant, several ways of choosing are mixed, or nothing is left.
    """
    # study:3 and study:x:3 are trials, as everywhere: of a sweep that is itself called study, or study:x.
    sweeps = [name.removeprefix(_SWEEP) for name in named if name.startswith(_SWEEP) and not TRIAL.fullmatch(name)]
    sweeps += [arguments.sweep] if arguments.sweep else []
    bulk = bool(arguments.experiment or arguments.filter)
    if not named and not sweeps and not bulk:
        raise UserError(
            "nothing to compare", "name two runs or more, or use --sweep NAME, --experiment NAME or --filter FILTER"
        )
    found = [record for name in sweeps for record in sweep_runs(name, store, outputs)]
    if bulk:
        found += matching_runs(arguments.experiment, arguments.filter or "", store, outputs)
    reasons = {str(record): exclusion_reason(record) for record in found}
    left = [record for record in found if not reasons[str(record)]]
    out = [f"{name}: {reason}" for name, reason in reasons.items() if reason]
    singles = [name for name in named if name.removeprefix(_SWEEP) not in sweeps]
    left += find_runs(singles, store, outputs)
    if not left:
        raise UserError(f"none of the {len(found)} runs can be compared: {'; '.join(out[:5])}", "name finished runs")
    more = f" and {len(out) - 5} more" if len(out) > 5 else ""
    return _once(left), [f"Left out: {'; '.join(out[:5])}{more}."] if out else []


def _once(records: Sequence[RunRecord]) -> list[RunRecord]:
    return list({record.reference: record for record in records}.values())


def _differences(ordered: Sequence[Entry], shared: Shared, by: str, options: EvaluationOptions) -> Section:
    """Which runs differ by more than chance, in the metric they are sorted by where it has a test, else in ROC-AUC."""
    base = by.removeprefix(f"{SPLIT}/")
    metric = base if by.startswith(f"{SPLIT}/") and base in METRICS else "roc_auc"
    heading = f"Differences in {tables.heading(f'{SPLIT}/{metric}')}"
    try:
        found = compare_pairs(
            shared.labels,
            {entry.label: shared.scores[entry.label] for entry in ordered},
            shared.units.codes,
            metric=metric,
            threshold=ordered[0].threshold,
            resamples=options.resamples,
            level=options.level,
        )
    except ValueError as error:
        return Section(heading, pd.DataFrame(), f"They cannot be tested: {error}.")
    which = "every pair" if len(ordered) <= EVERY_PAIR else "the best run with each of the others"
    delong = "; p (DeLong) by DeLong's variance over the same" if metric == "roc_auc" else ""
    return Section(
        heading,
        pd.DataFrame([_row(difference, options.level) for difference in found]),
        f"Told: {which}. p by a paired bootstrap over {len(shared.units)} {shared.units.name}, "
        f"{options.resamples} draws{delong}. p and bounds hold for every pair of the {len(ordered)} runs at once "
        f"(max-t), as the best on these samples is in part the luckiest. Real: p below {1 - options.level:.2g}.",
    )


def _row(found: Difference, level: float) -> dict[str, object]:
    row: dict[str, object] = {
        "run": found.first,
        "against": found.second,
        "difference": found.difference.value,
        "difference_low": found.difference.low,
        "difference_high": found.difference.high,
        "p": found.p,
    }
    row |= {"p (DeLong)": found.p_delong} if found.p_delong is not None else {}
    return {**row, "real": "yes" if found.real(level) else "not shown"}


def _how(shared: Shared, options: EvaluationOptions) -> str:
    classes = class_counts(shared.labels)
    counts = f"{classes['real']} real and {classes['fake']} fake {SPLIT} samples."
    if shared.too_few:
        return counts
    level = f"{100 * options.level:g}%"
    return f"{counts} {level} intervals by bootstrap over {len(shared.units)} {shared.units.name}."


def _charts(
    ordered: Sequence[Entry], shared: Shared, ranked: pd.DataFrame, by: str, larger: bool
) -> tuple[list[str], dict[str, list[str]]]:
    """The page's figures, and every run's line in those whose lines can be exchanged."""
    names = [entry.label for entry in ordered]
    keys = [key for key in typed_differently(ordered) if key in ranked]
    charts = board_charts(new_board(ranked, keys, by, larger_is_better=larger))
    learning, curves = learning_charts({entry.label: entry.history() for entry in ordered}, _monitor(ordered), names)
    if len(set(shared.labels.tolist())) > 1:
        chart, paths = roc_chart(shared.scores, shared.labels, names)
        return [chart, *learning, *charts], {"roc": paths, **curves}
    return [*learning, *charts], curves


def _monitor(ordered: Sequence[Entry]) -> str:
    return str(ordered[0].values.get("trainer.monitor", "val/roc_auc"))


def _addresses(ordered: Sequence[Entry], folder: Path) -> dict[str, str]:
    """The runs' own pages, as seen from the folder of the comparison."""
    places = {entry.label: place for entry in ordered for place in entry.record.places[:1]}
    return page.addresses(places, folder)


def _draw(ordered: Sequence[Entry], shared: Shared, ranked: pd.DataFrame, folder: Path) -> None:
    """The curves of the best runs as pictures, for papers."""
    from deepfake.tracking.figures.curves import overlaid_learning, overlaid_roc
    from deepfake.tracking.figures.style import save

    tables = {
        entry.label: pd.DataFrame({"label": shared.labels, "score": shared.scores[entry.label]}) for entry in ordered
    }
    ends = [f"{SPLIT}/roc_auc{end}" for end in ("", "_low", "_high")]
    areas = {}
    if set(ends) <= set(ranked):
        areas = {
            row["run"]: Interval(*(row[end] for end in ends)) for row in ranked.dropna(subset=ends).to_dict("records")
        }
    histories = {entry.label: entry.history() for entry in ordered}
    save(overlaid_roc(tables, areas), folder / "roc.png")
    save(overlaid_learning(histories, metric=_monitor(ordered)), folder / "learning_curves.png")
