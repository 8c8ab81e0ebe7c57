"""``deepfake evaluate RUN dataset=…``: a trained run's numbers on any data set, or on a suite of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.table import Table
from rich.text import Text

from deepfake.errors import UserError, harmless
from deepfake.metrics import class_counts
from deepfake.runs.artifacts import file_evaluation, run_folder
from deepfake.runs.console import Console
from deepfake.runs.evaluate import FOLDER, Evaluated, Target, evaluate_data, read_part, robustness_curves
from deepfake.runs.evaluation_table import breakdown_table, curves_table, scorecard
from deepfake.runs.load import Trained, open_run
from deepfake.runs.saved_config import read_changes, with_changes
from deepfake.tracking.run import reopen
from deepfake.tracking.run_folder import write_text

#: Keys of an entry that are no keys of a data set.
_OWN = ("dataset", "split")


def run_suite(runs: Sequence[str], request: Request, by: Sequence[str], robustness: bool, console: Console) -> int:
    """Evaluate each run on each data set of the suite.

    Every data set is read before anything is scored, so that a wrong path costs no hours.

    Returns:
        3 where some data set's coverage is too low.

    Raises:
        UserError: The suite cannot be read, or one of its data sets.
    """
    entries = read_suite(str(request.suite), request.split)
    rows: list[dict[str, object]] = []
    covered = True
    for reference in runs:
        trained = open_run(reference, request.overrides, console)
        targets = [target_of(trained, [*overrides, *request.overrides], split, console) for overrides, split in entries]
        _check_names(targets)
        results = []
        for target, (overrides, _) in zip(targets, entries, strict=True):
            results.append(evaluate_one(trained, target, by, robustness, [*overrides, *request.overrides], console))
        mine = [_row(trained, result) for result in results]
        _keep(trained, pd.DataFrame(mine))
        rows += mine
        covered &= all(result.covered for result in results)
    console.table(suite_table(pd.DataFrame(rows)))
    return 0 if covered else UNCOVERED


def read_suite(text: str, split: str) -> list[tuple[list[str], str]]:
    """The data sets of a suite, each as overrides and the split to score.

    Args:
        text: A YAML file, or a list such as ``[{dataset: images, root: /a, split: all}, {dataset: dfdc, root: /b}]``;
            the keys beside ``dataset`` and ``split`` are ``dataset.*`` ones. A relative root in a file is relative to
            the file.
        split: Of an entry that names none.

    Raises:
        UserError: No such file, no YAML, or not a list of such entries.
    """
    file = Path(text).expanduser()
    inline = text.lstrip().startswith("[")
    if not inline and not file.is_file():
        raise UserError(f"suite={text} is no file", "name a YAML file with a list of data sets, or write the list")
    try:
        found = yaml.safe_load(text if inline else file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"suite={text} is no YAML: {error}", "write a list of data sets") from error
    if not isinstance(found, list) or not found:
        raise UserError(f"suite={text} is not a list of data sets", "- {dataset: images, root: /a}, one a line")
    return [_entry(entry, number, split, None if inline else file.parent) for number, entry in enumerate(found)]


def _check_names(targets: Sequence[Target]) -> None:
    """Refuse two data sets whose results would be kept in one place."""
    names = [(target.config.dataset.name, target.split) for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"two data sets of the suite are called {name[0]!r}",
                f"give one a name of its own, {{dataset: images, root: /a, name: {name[0]}_2}}, or another split",
            )


def _entry(entry: object, number: int, split: str, folder: Path | None) -> tuple[list[str], str]:
    if not isinstance(entry, Mapping) or "dataset" not in entry:
        raise UserError(f"entry {number} of the suite names no dataset: {entry!r}", "write {dataset: images, root: /a}")
    values: dict[str, Any] = {str(key): value for key, value in entry.items()}
    for key in ("root", "table"):
        if folder is not None and values.get(key) is not None and not Path(str(values[key])).expanduser().is_absolute():
            values[key] = str((folder / str(values[key])).absolute())
    overrides = [f"dataset={values['dataset']}"]
    overrides += [f"dataset.{key}={_quoted(value)}" for key, value in values.items() if key not in _OWN]
    return overrides, str(values.get("split", split))


def _quoted(value: object) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_quoted(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_quoted(inner) for inner in value) + "]"
    # JSON's words for nothing, yes and no are Hydra's too.
    return json.dumps(value)


def _row(trained: Trained, result: Evaluated) -> dict[str, object]:
    values = result.found.values
    names = ("roc_auc", "roc_auc_low", "roc_auc_high", "average_precision", "eer", "accuracy_fitted", "f1_fitted")
    return {
        "run": trained.record.name,
        "trained_on": trained.record.config()["dataset"]["name"],
        "tested_on": result.name,
        "same_data": not result.kin.other,
        **class_counts(result.target.manifest.table["label"]),
        **{name: values.get(name, float("nan")) for name in names},
        "macro_roc_auc": float("nan") if result.macro is None else result.macro,
        "coverage": result.coverage["share"],
        "reason": result.found.unavailable.get("roc_auc", ""),
    }


def suite_table(rows: pd.DataFrame) -> Table:
    """ROC-AUC of each run (and what it was trained on) by data set; ``=`` marks a run's own data."""
    table = Table("run", "trained on", title="ROC-AUC: train set by test set", title_justify="left")
    tests = list(dict.fromkeys(rows["tested_on"]))
    for name in tests:
        table.add_column(Text(str(name)))
    for (run, data), mine in rows.groupby(["run", "trained_on"], sort=False):
        cells = []
        for name in tests:
            own = mine[mine["tested_on"] == name]
            cells.append(_cell(own.iloc[0].to_dict()) if len(own) else "")
        table.add_row(Text(harmless(str(run))), Text(harmless(str(data))), *cells)
    return table


def _cell(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["roc_auc"]):
        return f"none: {row['reason']}"
    interval = "" if pd.isna(row["roc_auc_low"]) else f" [{row['roc_auc_low']:.3f}, {row['roc_auc_high']:.3f}]"
    return f"{row['roc_auc']:.3f}{interval}{' =' if row['same_data'] else ''}"


def _keep(trained: Trained, rows: pd.DataFrame) -> None:
    """The run's row as ``eval/suite.csv``, in its folder and in MLflow."""
    text = rows.to_csv(index=False)
    folder = run_folder(trained)
    if folder is not None:
        write_text(folder / FOLDER / "suite.csv", text)
    if trained.record.run_id is not None:
        reopen(trained.store, trained.record.run_id).text(text, f"{FOLDER}/suite.csv")


#: The exit status when too few of the samples have a score.
UNCOVERED = 3


@dataclass(frozen=True)
class Request:
    """What was asked beyond a config's own keys.

    Attributes:
        split: Which part of the data.
        suite: A file or list of several data sets; None for one.
        overrides: Everything else.
    """

    split: str
    suite: str | None
    overrides: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run, the data, and what to compute beyond the usual."""
    parser.add_argument("run", metavar="RUN", help="an MLflow run id, a name, a run folder, STUDY:NUMBER or best:STUDY")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="dataset=… dataset.root=… (without: the run's own), split=test|val|train|all, min_coverage=0.95, "
        "evaluation.*, trainer.batch_size=…; suite=FILE.yaml for several data sets, and then further runs too",
    )
    parser.add_argument(
        "--by", action="append", default=[], metavar="COLUMN", help="break the numbers down by a column; again for more"
    )
    parser.add_argument(
        "--robustness", action="store_true", help="also score damaged copies: ROC-AUC against each damage's severity"
    )


def main(arguments: argparse.Namespace) -> int:
    """Score, tell and keep; 3 where less than ``min_coverage`` of the samples have a score."""
    console = Console()
    more = [text for text in arguments.overrides if "=" not in text]
    request = read_request([text for text in arguments.overrides if "=" in text])
    if request.suite is not None:
        return run_suite([arguments.run, *more], request, arguments.by, arguments.robustness, console)
    if more:
        raise UserError(f"{more[0]!r} is a second run; one run is evaluated on one data set", "add suite=FILE.yaml")
    trained = open_run(arguments.run, request.overrides, console)
    config = trained.config
    target = Target(
        config,
        request.split,
        read_part(config, request.split, trained.record, console),
        named=trained.changes.has("dataset.name"),
    )
    result = evaluate_one(trained, target, arguments.by, arguments.robustness, request.overrides, console)
    return 0 if result.covered else UNCOVERED


def read_request(overrides: Sequence[str]) -> Request:
    """Part the command's own keys from a config's."""
    own = {"split": "test"}
    rest = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if equals and key in ("split", "suite"):
            own[key] = value
        elif key == "min_coverage":
            rest.append(f"evaluation.min_coverage={value}")
        else:
            rest.append(text)
    return Request(own["split"], own.get("suite"), rest)


def evaluate_one(
    trained: Trained, target: Target, by: Sequence[str], robustness: bool, overrides: Sequence[str], console: Console
) -> Evaluated:
    """One run on one data set, from scoring to the last line printed."""
    # Where it may not be kept, nothing is scored.
    run_folder(trained)
    result = evaluate_data(trained, target, by, console)
    curves: Mapping[str, pd.DataFrame] = {}
    if robustness:
        curves = robustness_curves(trained, result, console)
    place = file_evaluation(trained, result, curves, overrides)
    console.table(scorecard(trained.record.name, trained.decision, result))
    if len(result.groups):
        console.table(breakdown_table(trained.decision, result))
    if curves:
        console.table(curves_table(curves))
    for warning in result.warnings:
        console.warn(f"{result.name}: {warning}")
    console.say(f"evaluation: {place}")
    return result


def target_of(trained: Trained, overrides: Sequence[str], split: str, console: Console) -> Target:
    """Another data set for a run that is loaded already."""
    changes = read_changes(overrides)
    config = with_changes(trained.record, changes)
    return Target(config, split, read_part(config, split, trained.record, console), named=changes.has("dataset.name"))
