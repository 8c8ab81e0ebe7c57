"""``deepfake sweep [NAME]``: the sweeps there are, what one of them takes, and deleting it whole."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from deepfake.config import is_environment_key
from deepfake.errors import UserError, harmless
from deepfake.hydra_app import compose_run
from deepfake.installation import typed_command
from deepfake.runs.console import Console, megabytes
from deepfake.runs.sweep_removal import check_deletable, delete_sweep, find_sweep, list_sweeps
from deepfake.tracking.removal import taken
from deepfake.tracking.store import locate

#: The exit status when something was left.
LEFT = 3
_STORAGE = "sweep.storage="

EXAMPLES = (
    ("deepfake sweep", "the sweeps there are, and what each takes on disk"),
    ("deepfake sweep lr_batch_demo", "what there is of one"),
    ("deepfake sweep lr_batch_demo --delete", "delete it whole, after a question"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep, and what to do with it."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="SWEEP | key=value",
        help="a sweep's name or folder; and where things lie: paths.outputs, tracking.uri, sweep.storage",
    )
    parser.add_argument(
        "--delete",
        action="store_true",
        help="delete it whole: its study, its folder, its runs in MLflow with artifacts and models",
    )
    parser.add_argument("--yes", action="store_true", help="with --delete: ask nothing")


def main(arguments: argparse.Namespace) -> int:
    """List, show or delete; 3 where something could not be deleted."""
    if arguments.yes and not arguments.delete:
        raise UserError("--yes means nothing without --delete", "add --delete, or leave --yes out")
    storages = [word.removeprefix(_STORAGE) for word in arguments.words if word.startswith(_STORAGE)]
    typed = [word for word in arguments.words if "=" in word and is_environment_key(word)]
    names = [word for word in arguments.words if word not in typed and not word.startswith(_STORAGE)]
    if unknown := [word for word in names if "=" in word and not Path(word).exists()]:
        raise UserError(
            f"{unknown[0]} says nothing of where a sweep lies", "paths.outputs=, tracking.uri=, sweep.storage="
        )
    config = compose_run(typed)
    console = Console()
    if not names:
        if arguments.delete:
            raise UserError("--delete names no sweep", f"name one: {typed_command('sweep')} lists them")
        console.table(_table(list_sweeps(config.outputs)))
        return 0
    if len(names) > 1:
        raise UserError(f"{names[1]!r} is nothing that can be done to a sweep", "name one sweep, and --delete it")
    store = locate(config.tracking, config.outputs)
    sweep = find_sweep(names[0], store, config.outputs, storages[-1] if storages else None)
    console.say(f"sweep {sweep.name}, {megabytes(sweep.bytes())} on disk:")
    for line in sweep.describe():
        console.say(f"  {line}")
    if not arguments.delete:
        return 0
    check_deletable(sweep, console.say)
    if not arguments.yes and not console.confirm("delete all of it?", "add --yes to delete it unasked"):
        console.say("nothing was deleted")
        return 0
    freed, left = delete_sweep(sweep, console.say)
    for line in left:
        console.warn(line)
    console.say(f"sweep {sweep.name} is deleted, {megabytes(freed)} freed")
    return LEFT if left else 0


def _table(folders: Sequence[Path]) -> Table:
    table = Table("sweep", title_justify="left", header_style="bold")
    for name in ("runs", "on disk"):
        table.add_column(name, justify="right")
    for folder in folders:
        runs = sum(one.name.isdigit() for one in folder.iterdir())
        table.add_row(Text(harmless(folder.name)), str(runs), megabytes(taken([folder])))
    return table
