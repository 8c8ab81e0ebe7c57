"""``deepfake sweep [NAME [COMMAND]]``: the sweeps there are, how one stands, commands to it, and deleting it whole."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepfake.config import is_environment_key
from deepfake.errors import UserError, nearest
from deepfake.hydra_app import compose_run
from deepfake.installation import typed_command
from deepfake.runs.console import Console, megabytes
from deepfake.runs.sweep_control import COMMANDS, command, open_study, show, studies_table, watch
from deepfake.runs.sweep_removal import check_deletable, delete_sweep, find_sweep, list_sweeps
from deepfake.tracking.removal import taken
from deepfake.tracking.store import locate

#: The exit status when something was left.
LEFT = 3
_STORAGE = "sweep.storage="

#: Where things lie, whatever else is typed.
_PLACES = ("paths.", "tracking.")

EXAMPLES = (
    ("deepfake sweep", "the sweeps there are: state, trials, best, last active, and what each takes on disk"),
    ("deepfake sweep lr_batch_demo", "one: what runs where, the best so far, what is left and how long it will take"),
    ("deepfake sweep lr_batch_demo --watch", "the same until it ends"),
    ("deepfake sweep lr_batch_demo pause 7", "trial 7 waits after its epoch, until resume 7; stop 7 ends it"),
    ("deepfake sweep lr_batch_demo add like=7 optimizer.lr=3e-4", "a point to try next"),
    ("deepfake sweep lr_batch_demo retry failed", "failed trials again; or a trial's number"),
    ("deepfake sweep lr_batch_demo workers 4", "more workers, or fewer"),
    ("deepfake sweep lr_batch_demo stop", "the whole study, after the epochs of what runs"),
    ("deepfake sweep lr_batch_demo --delete", "delete it whole, after a question"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep, and what to do with it."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="SWEEP | COMMAND | key=value",
        help="a sweep's name or folder; a command to it: "
        + ", ".join(f"{word} {known.takes}" for word, known in COMMANDS.items())
        + "; and where things lie: paths.outputs, tracking.uri",
    )
    parser.add_argument("--storage", metavar="URL", help="where its study is kept, if not in its folder")
    parser.add_argument("--watch", action="store_true", help="show how it stands until it ends")
    parser.add_argument(
        "--delete",
        action="store_true",
        help="delete it whole: its study, its folder, its runs in MLflow with artifacts and models",
    )
    parser.add_argument("--yes", action="store_true", help="with --delete: ask nothing")


def main(arguments: argparse.Namespace) -> int:
    """List, show, watch, command or delete; 3 where something could not be deleted."""
    if arguments.yes and not arguments.delete:
        raise UserError("--yes means nothing without --delete", "add --delete, or leave --yes out")
    storages = [word.removeprefix(_STORAGE) for word in arguments.words if word.startswith(_STORAGE)]
    storage = arguments.storage or (storages[-1] if storages else None)
    words = [word for word in arguments.words if not word.startswith(_STORAGE)]
    adds = words[1:2] == ["add"]
    typed = [word for word in words if "=" in word and (word.startswith(_PLACES) if adds else is_environment_key(word))]
    names = [word for word in words if word not in typed]
    if unknown := [word for word in names[: 2 if adds else None] if "=" in word and not Path(word).exists()]:
        raise UserError(f"{unknown[0]} says nothing of where a sweep lies", "paths.outputs=, tracking.uri=, --storage")
    config = compose_run(typed)
    store = locate(config.tracking, config.outputs)
    console = Console()
    if not names:
        if arguments.delete or arguments.watch:
            option = "--delete" if arguments.delete else "--watch"
            raise UserError(f"{option} names no sweep", f"name one: {typed_command('sweep')} lists them")
        console.table(studies_table(list_sweeps(config.outputs), lambda folder: megabytes(taken([folder]))))
        return 0
    if len(names) > 1 and names[1] not in COMMANDS:
        raise UserError(f"{names[1]!r} is nothing that can be done to a sweep", nearest(names[1], COMMANDS))
    if (len(names) > 1) + arguments.delete + arguments.watch > 1:
        raise UserError("a sweep is commanded, watched or deleted, one at a time", "leave all but one out")
    if len(names) > 1 or arguments.watch:
        folder = _folder(names[0], config.outputs)
        study = open_study(folder, storage) if storage is not None or folder.is_dir() else None
        if study is None:
            raise _no_study(names[0], folder, config.outputs)
        if arguments.watch:
            watch(study, console)
        else:
            console.say(command(study, names[1:], store, folder))
        return 0
    sweep = find_sweep(names[0], store, config.outputs, storage, deleting=arguments.delete)
    if not arguments.delete:
        study = open_study(sweep.folder, storage) if sweep.study is not None else None
        if study is not None:
            show(study, console)
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


def _folder(reference: str, outputs: Path) -> Path:
    """Where a sweep lies that is meant by its name or its folder."""
    return Path(reference).expanduser().absolute() if "/" in reference else outputs / "sweeps" / reference


def _no_study(reference: str, folder: Path, outputs: Path) -> UserError:
    if folder.is_dir():
        return UserError(f"{folder} holds no study that could be commanded or watched", "a grid runs to its end")
    known = [one.name for one in list_sweeps(outputs)]
    return UserError(f"there is no sweep {reference!r} in {outputs / 'sweeps'}", nearest(reference, known))
