"""``deepfake serve RUN|FOLDER``: answers over HTTP, a page to drop a video on, until it is told to stop."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.errors import UserError
from deepfake.reading.folder import is_exported
from deepfake.runs.console import Console
from deepfake.runs.inputs import OVERRIDE
from deepfake.serving.starting import add_words, open_exported, serve

if TYPE_CHECKING:
    from deepfake.serving.limits import Limits
    from deepfake.serving.model import Model

EXAMPLES = (
    ("deepfake serve cnn_gru", "on http://127.0.0.1:8000"),
    ("deepfake serve exported/ --host 0.0.0.0 --port 80", "an exported folder, for all who can reach this machine"),
    ("deepfake serve best:lr_batch --root /data/videos", "files of a folder too, by their paths"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What answers, where, and how much of it."""
    parser.add_argument(
        "run",
        metavar="RUN|FOLDER",
        help="a run's name, id or folder, study:number or best:study; or a folder made by deepfake export",
    )
    parser.add_argument(
        "changes", nargs="*", metavar="key=value", help="changes of a run, as deepfake predict takes them"
    )
    add_words(parser)


def main(arguments: argparse.Namespace) -> int:
    """Load, listen, and answer until SIGTERM or Ctrl-C."""
    console = Console()

    def say(text: str) -> None:
        console.say(text)
        # Who reads it may be a program that waits for the address.
        sys.stdout.flush()

    serve(arguments, lambda folder, limits: _open(arguments, folder, limits, console), say)
    return 0


def _open(arguments: argparse.Namespace, folder: Path, limits: Limits, console: Console) -> Model:
    """What answers: an exported folder, which is known by its digests, or a run.

    Raises:
        UserError: It cannot be used; see :func:`deepfake.runs.load.open_run`.
    """
    changes: list[str] = arguments.changes
    for text in changes:
        if not OVERRIDE.match(text):
            raise UserError(
                f"{text!r} is no change of a run", "behind RUN come dataset., evaluation. or trainer. keys as key=value"
            )
    if is_exported(Path(arguments.run)):
        if changes:
            raise UserError(
                f"{changes[0]!r} cannot be changed: an exported folder is what it is",
                "export the run anew, or serve it",
            )
        return open_exported(Path(arguments.run), folder, limits)
    from deepfake.commands.predict import as_json
    from deepfake.runs.load import open_run
    from deepfake.runs.resident import Resident

    return Resident(open_run(arguments.run, changes, console), changes, folder, limits, as_json)
