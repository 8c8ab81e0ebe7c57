"""``deepfake push RUN user/name``: an exported run to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from deepfake.errors import UserError
from deepfake.reading.folder import is_exported, read_folder
from deepfake.runs.console import Console
from deepfake.runs.export import export_run
from deepfake.runs.hub import check_name, find_token, upload
from deepfake.runs.load import open_run

EXAMPLES = (
    ("deepfake push cnn_gru somebody/cnn_gru --private", "exported, and uploaded"),
    ("deepfake push exported/cnn_gru somebody/cnn_gru", "a folder that was exported before, its card edited say"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What, and where to."""
    parser.add_argument("run", metavar="RUN", help="a run, or a folder that deepfake export wrote")
    parser.add_argument("name", metavar="USER/NAME", help="the repository; made where there is none")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for deepfake export")
    parser.add_argument("--private", action="store_true", help="make a repository that only you can see")


def main(arguments: argparse.Namespace) -> int:
    """Find out whether it can be uploaded before anything is made."""
    console = Console()
    check_name(arguments.name)
    token = find_token()
    place = Path(arguments.run).expanduser()
    if is_exported(place):
        if arguments.overrides:
            raise UserError(
                f"{place} is exported already, and {arguments.overrides[0]} changes nothing", "leave it out"
            )
        read_folder(place)
        address = upload(place, arguments.name, token, private=arguments.private)
    else:
        trained = open_run(arguments.run, arguments.overrides, console)
        with tempfile.TemporaryDirectory(prefix="deepfake-push-") as scratch:
            folder = export_run(trained, Path(scratch) / "exported", console).folder
            address = upload(folder, arguments.name, token, private=arguments.private)
    console.say(f"pushed: {address}")
    return 0
