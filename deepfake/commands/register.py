"""``deepfake register RUN name@alias``: a run's model under a name that programs can ask for."""

from __future__ import annotations

import argparse

from deepfake.hydra_app import compose_run
from deepfake.runs.console import Console
from deepfake.runs.saved_config import EVALUATE, read_overrides
from deepfake.tracking.registry import register, split_name
from deepfake.tracking.search import find_run
from deepfake.tracking.store import connect, locate

EXAMPLES = (
    ("deepfake register cnn_gru faces@production", "a version of faces, which production points to from now on"),
    ("deepfake register best:lr_batch faces", "a further version; production points where it did"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, under which name."""
    parser.add_argument("run", metavar="RUN", help="an MLflow run id, a run's name, STUDY:NUMBER or best:STUDY")
    parser.add_argument("name", metavar="NAME[@ALIAS]", help="the registered model, and what is to point to it")
    parser.add_argument(
        "places", nargs="*", metavar="key=value", help="where runs are looked up: paths.outputs, tracking.uri"
    )


def main(arguments: argparse.Namespace) -> int:
    """Register it, once; an alias moves."""
    console = Console()
    name, alias = split_name(arguments.name)
    read_overrides(arguments.places, EVALUATE)
    here = compose_run(arguments.places)
    store = locate(here.tracking, here.outputs)
    record = find_run(arguments.run, store, here.outputs).require_finished()
    record.refuse_ensemble("is no model of MLflow's", "register the runs that it is made of")
    done = register(connect(store), record, name, alias)
    console.say(
        f"{'registered' if done.anew else 'registered before'}: {done.name}, version {done.version}, {done.uri}"
    )
    return 0
