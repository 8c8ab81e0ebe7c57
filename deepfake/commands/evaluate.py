"""``deepfake evaluate RUN dataset=…``: a trained run's numbers on any data set, and how far to trust them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from deepfake.commands.console import Console
from deepfake.commands.evaluating import Evaluated, Target, evaluate_data, read_part
from deepfake.commands.filing import file_evaluation
from deepfake.commands.overlay import lay_over, typed
from deepfake.commands.scorecard import breakdown_table, curves_table, scorecard
from deepfake.commands.trained import Trained, open_run
from deepfake.errors import UserError

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
        from deepfake.commands.suite import run_suite

        return run_suite([arguments.run, *more], request, arguments.by, arguments.robustness, console)
    if more:
        raise UserError(f"{more[0]!r} is a second run; one run is evaluated on one data set", "add suite=FILE.yaml")
    trained = open_run(arguments.run, request.overrides, console)
    config = trained.config
    target = Target(
        config,
        request.split,
        read_part(config, request.split, trained.record, console),
        named="name" in trained.given.under("dataset"),
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
    result = evaluate_data(trained, target, by, console)
    curves: Mapping[str, pd.DataFrame] = {}
    if robustness:
        from deepfake.commands.robustness import robustness_curves

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
    given = typed(overrides)
    config = lay_over(trained.record, given)
    return Target(
        config, split, read_part(config, split, trained.record, console), named="name" in given.under("dataset")
    )
