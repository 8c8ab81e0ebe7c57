"""The verbs of ``deepfake``, one a module: what the command line imports once it is typed."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Protocol, cast

VERBS = {
    "train": "train one detector, or many with -m: what python train.py does, from any folder",
    "datasets": "name the data sets that are known, and those found under a folder",
    "prepare": "read a data set, audit it and cut its faces, before any training",
    "evaluate": "score a trained run on any data set: metrics with intervals, breakdowns, robustness, suites",
    "ensemble": "average several runs: one that evaluates, predicts and is kept like any other",
    "predict": "say of videos and images whether they are REAL or FAKE, by a trained run",
    "explain": "write down why a run calls a file REAL or FAKE: overlay, timeline, frames, one page",
    "export": "write a run as a folder that others use without this project: weights, ONNX graph, model card",
    "push": "export a run and upload it to the Hugging Face Hub",
    "register": "give a run's model a name, and an alias, in the registry of the tracking store",
    "serve": "answer over HTTP: uploads, a page to drop a video on, metrics, by a run or an exported folder",
    "reproduce": "run a run of the past again, and say whether it came out the same",
    "capsule": "put a run into one file, to be run again on another machine",
    "sweep": "list the sweeps there are, say how one stands, steer it while it runs, delete it whole",
    "prune": "free crops, features, probes and artifacts that no living run refers to",
    "sync": "send the tracking server what runs told while it was away",
    "ui": "look at a sweep or a run in the browser, in MLflow's pages",
    "compare": "set runs side by side: a leaderboard, which differences are real, one page to show",
    "doctor": "check this machine: Python, packages, device, decoder, disk, tracking store, data, weights",
    "completion": "print what makes a shell complete verbs, runs, keys and choices",
}

#: What runs several jobs of training at the same time; imported once it is needed.
TOGETHER = "deepfake.runs.together.run_together"


class Verb(Protocol):
    """What a module of ``deepfake.commands`` offers the command line.

    Attributes:
        EXAMPLES: What to type, and what that does.
    """

    EXAMPLES: Sequence[tuple[str, str]]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say which arguments it takes."""

    def main(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit status."""


def add_arguments_of(verb: str, parser: argparse.ArgumentParser) -> Verb:
    """Give a parser the arguments of a verb other than ``train``, and its examples; returns the verb."""
    module = cast(Verb, importlib.import_module(f"deepfake.commands.{verb}"))
    width = max(len(command) for command, _ in module.EXAMPLES)
    examples = "\n".join(f"  {command:<{width}}  # {what}" for command, what in module.EXAMPLES)
    parser.epilog, parser.formatter_class = f"examples:\n{examples}", argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    return module
