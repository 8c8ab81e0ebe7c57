"""``deepfake doctor [key=value …]``: whether that run would work on this machine, and what is in its way."""

from __future__ import annotations

import argparse
import dataclasses
import json

from rich.text import Text

from deepfake.errors import harmless
from deepfake.hydra_app import compose_run
from deepfake.runs.checkup import FAILURE, OK, WARNING, Check, check_all
from deepfake.runs.console import Console

EXAMPLES = (
    ("deepfake doctor", "this machine, the demo"),
    ("deepfake doctor dataset=dfdc dataset.root=/data/dfdc backbone=resnet50", "what that run would need"),
)

#: The status where a run would not work.
UNWELL = 1
_COLOURS = {OK: "green", WARNING: "yellow", FAILURE: "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The same overrides as train.py takes."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what the run is to be made of")
    parser.add_argument("--json", action="store_true", help="a JSON list on standard output, to be sent to who helps")


def main(arguments: argparse.Namespace) -> int:
    """Check and tell; 1 where a run would fail."""
    config = compose_run(arguments.overrides)
    console = Console(aside=arguments.json)
    found = []
    for check in check_all(config):
        found.append(check)
        _show(check, console)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(check) for check in found], indent=2, ensure_ascii=False))
    failures = sum(check.state == FAILURE for check in found)
    if failures:
        console.say(f"\n{failures} of {len(found)} stand in the way of a run")
    return UNWELL if failures else 0


def _show(check: Check, console: Console) -> None:
    line = Text.assemble((f"{check.state:<8}", _COLOURS[check.state]), f"{check.name:<21}", harmless(check.said))
    console.show(line)
    if check.todo:
        console.show(Text(f"{'':<29}to do: {harmless(check.todo)}"))
