"""``deepfake evaluate RUN dataset=…``: a trained run's numbers on any data set, or on a suite of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from deepfake.errors import UserError, harmless
from deepfake.metrics import class_counts
from deepfake.options import split_override
from deepfake.runs.artifacts import file_evaluation, refresh_card, run_folder
from deepfake.runs.console import Console
from deepfake.runs.evaluate import EvaluatedData, Target, evaluate_data, open_target, robustness_curves
from deepfake.runs.evaluation_table import breakdown_table, curves_table, scorecard
from deepfake.runs.file_damage import file_curves
from deepfake.runs.load import Ensemble, Trained, open_run
from deepfake.runs.saved_config import read_changes
from deepfake.runs.suite import Entry, beside_published, open_suite, published_table, sources
from deepfake.tracking.run import reopen
from deepfake.tracking.run_folder import PUBLISHED, SUITE, write_text

#: The exit status when too few of the samples have a score.
UNCOVERED = 3
_SUITE_ROOTS, _SUITE_ROOT = "suite.roots.", "suite.root"


@dataclass(frozen=True)
class Request:
    """What was asked beyond a config's own keys.

    Attributes:
        split: Which part of the data.
        suite: A name, file or list of several data sets; None for one.
        overrides: Everything else that was typed as ``key=value``.
        by: Columns to break the numbers down by, beyond the usual ones.
        robustness: Whether corrupted clips are scored too.
        robustness_files: Whether corrupted files are prepared anew and scored too.
        roots: Where sets of a suite lie, by their keys.
        data: The folder in which sets of a suite lie by their usual names.
    """

    split: str
    suite: str | None
    overrides: list[str]
    by: Sequence[str] = ()
    robustness: bool = False
    robustness_files: bool = False
    roots: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None


EXAMPLES = (
    ("deepfake evaluate best:lr_batch --by method", "a study's best on its own test split, by method"),
    ("deepfake evaluate cnn_gru dataset=celebdf dataset.root=/data/Celeb-DF-v2", "on data it never saw"),
    ("deepfake evaluate cnn_gru suite=crossdataset suite.root=/data", "beside what was published of others"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run, the data, and what to compute beyond the usual."""
    parser.add_argument("run", metavar="RUN", help="an MLflow run id, a name, a run folder, STUDY:NUMBER or best:STUDY")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="dataset=… dataset.root=… (without: the run's own), split=test|val|train|all, min_coverage=0.95, "
        "evaluation.*, trainer.batch_size=…; suite=NAME or FILE.yaml for several data sets (suite.roots.KEY=…, "
        "suite.root=…), and then further runs too",
    )
    parser.add_argument(
        "--by", action="append", default=[], metavar="COLUMN", help="break the numbers down by a column; again for more"
    )
    parser.add_argument(
        "--robustness", action="store_true", help="also score damaged copies: ROC-AUC against each damage's severity"
    )
    parser.add_argument(
        "--robustness-files",
        action="store_true",
        help="the same of whole files, in which faces are looked for again; slow: dataset.limit=50 takes a few",
    )


def main(arguments: argparse.Namespace) -> int:
    """Score, tell and keep; 3 where less than ``min_coverage`` of the samples have a score."""
    console = Console()
    more = [text for text in arguments.overrides if "=" not in text]
    request = read_request([text for text in arguments.overrides if "=" in text])
    request = replace(
        request, by=arguments.by, robustness=arguments.robustness, robustness_files=arguments.robustness_files
    )
    if request.suite is not None:
        return run_suite([arguments.run, *more], request, console)
    if more:
        raise UserError(
            f"{more[0]!r} is a second run; one run is evaluated on one data set", "add suite=NAME or FILE.yaml"
        )
    return 0 if evaluate(arguments.run, request, console).covered else UNCOVERED


def evaluate(reference: str, request: Request, console: Console) -> EvaluatedData:
    """A run on one data set, as :func:`evaluate_one`; the run is found first."""
    trained = open_run(reference, request.overrides, console)
    target = open_target(trained.record, trained.changes, request.split, console)
    return evaluate_one(trained, target, request, console)


def read_request(overrides: Sequence[str]) -> Request:
    """Part the command's own keys from a config's."""
    split, suite, data, others = "test", None, None, []
    roots: dict[str, str] = {}
    for text in overrides:
        key, value = split_override(text)
        if key == "split":
            split = value
        elif key == "suite":
            suite = value
        elif key == _SUITE_ROOT:
            data = value
        elif key.startswith(_SUITE_ROOTS):
            roots[key.removeprefix(_SUITE_ROOTS)] = value
        else:
            others.append(f"evaluation.min_coverage={value}" if key == "min_coverage" else text)
    if suite is None and (roots or data):
        raise UserError("suite.roots and suite.root say where the sets of a suite lie", "add suite=crossdataset")
    return Request(split, suite, others, roots=roots, data=data)


def evaluate_one(trained: Trained | Ensemble, target: Target, request: Request, console: Console) -> EvaluatedData:
    """One run on one data set, from scoring to the last line printed."""
    # Where it may not be kept, nothing is scored.
    run_folder(trained)
    result = evaluate_data(trained, target, request.by, console)
    if request.robustness:
        result.curves = robustness_curves(result, console)
    if request.robustness_files:
        result.curves |= file_curves(result, console)
    place = file_evaluation(trained, result)
    console.table(scorecard(trained.record.name, result))
    if len(result.breakdown):
        console.table(breakdown_table(result))
    if result.curves:
        console.table(curves_table(result.curves))
    for warning in result.warnings:
        console.warn(f"{result.name}: {warning}")
    console.say(f"evaluation: {place}")
    return result


def run_suite(runs: Sequence[str], request: Request, console: Console) -> int:
    """Evaluate each run on each data set of the suite.

    Every data set is read before anything is scored, so that a wrong path costs no hours.

    Returns:
        3 where some data set's coverage is too low.

    Raises:
        UserError: The suite cannot be read, or one of its data sets.
    """
    suite = open_suite(str(request.suite), request.split, request.roots, request.data)
    for key, why in suite.missing.items():
        console.warn(f"{key} is skipped: {why}")
    rows: list[dict[str, object]] = []
    covered = True
    for reference in runs:
        trained = open_run(reference, request.overrides, console)
        targets = [_target(trained, entry, request, console) for entry in suite.entries]
        _check_names(targets)
        results = [evaluate_one(trained, target, request, console) for target in targets]
        new = [_row(trained, result) for result in results]
        values = {entry.key: result.found.values for entry, result in zip(suite.entries, results, strict=True)}
        compared = beside_published(suite, values)
        _keep(trained, {SUITE: pd.DataFrame(new), **({PUBLISHED: compared} if len(compared) else {})})
        if suite.published:
            refresh_card(trained, console)
            name = str(trained.record.config()["dataset"]["name"])
            console.table(published_table(trained.record.name, name, suite, values))
            for line in sources(suite):
                console.say(f"note: {line}")
        rows += new
        covered &= all(result.covered for result in results)
    console.table(suite_table(pd.DataFrame(rows)))
    return 0 if covered else UNCOVERED


def _target(trained: Trained | Ensemble, entry: Entry, request: Request, console: Console) -> Target:
    changes = read_changes([*entry.overrides, *request.overrides])
    try:
        return open_target(trained.record, changes, entry.split, console)
    except UserError as error:
        raise UserError(f"{entry.key}: {error.message}" if entry.key else error.message, error.hint) from error


def _check_names(targets: Sequence[Target]) -> None:
    """Refuse two data sets whose results would be kept in one place."""
    names = [(target.config.dataset.name, target.split) for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"two data sets of the suite are called {name[0]!r}",
                f"give one a name of its own, {{dataset: images, root: /a, name: {name[0]}_2}}, or another split",
            )


def _row(trained: Trained | Ensemble, result: EvaluatedData) -> dict[str, object]:
    values = result.found.values
    names = ("roc_auc", "roc_auc_low", "roc_auc_high", "average_precision", "eer", "accuracy_fitted", "f1_fitted")
    return {
        "run": trained.record.name,
        "trained_on": trained.record.config()["dataset"]["name"],
        "tested_on": result.name,
        "same_data": not result.overlap.other,
        **class_counts(result.target.manifest.table["label"]),
        **{name: values.get(name, float("nan")) for name in names},
        "macro_roc_auc": float("nan") if result.macro is None else result.macro,
        "coverage": result.coverage["share"],
        "reason": result.found.unavailable.get("roc_auc", ""),
    }


def _keep(trained: Trained | Ensemble, tables: Mapping[str, pd.DataFrame]) -> None:
    """What came of a suite, in the run's folder and in MLflow, each table by its file's name."""
    folder = run_folder(trained)
    log = None if trained.record.run_id is None else reopen(trained.store, trained.record.run_id)
    for name, table in tables.items():
        text = table.to_csv(index=False)
        if folder is not None:
            write_text(folder / name, text)
        if log is not None:
            log.text(text, name)


def suite_table(rows: pd.DataFrame) -> Table:
    """ROC-AUC of each run (and what it was trained on) by data set; ``=`` marks a run's own data."""
    table = Table("run", "trained on", title="ROC-AUC: train set by test set", title_justify="left")
    tests = list(dict.fromkeys(rows["tested_on"]))
    for name in tests:
        table.add_column(Text(str(name)))
    for (run, data), group in rows.groupby(["run", "trained_on"], sort=False):
        by_test = group.drop_duplicates("tested_on").set_index("tested_on")
        cells = [_cell(by_test.loc[name].to_dict()) if name in by_test.index else "" for name in tests]
        table.add_row(Text(harmless(str(run))), Text(harmless(str(data))), *cells)
    return table


def _cell(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["roc_auc"]):
        return f"none: {row['reason']}"
    interval = "" if pd.isna(row["roc_auc_low"]) else f" [{row['roc_auc_low']:.3f}, {row['roc_auc_high']:.3f}]"
    return f"{row['roc_auc']:.3f}{interval}{' =' if row['same_data'] else ''}"
