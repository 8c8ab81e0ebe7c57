"""``deepfake capsule RUN``: one file with all it takes to run a run again on another machine."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from deepfake.errors import UserError
from deepfake.hydra_app import compose_run
from deepfake.runs.capsules import SUFFIX
from deepfake.runs.console import Console
from deepfake.runs.packing import Contents, collect, write_capsule
from deepfake.runs.saved_config import EVALUATE, read_overrides
from deepfake.tracking.run_record import RunRecord
from deepfake.tracking.search import find_run
from deepfake.tracking.store import locate

_MOST_NAMED = 8

EXAMPLES = (
    ("deepfake capsule cnn_gru", "config, scores, digests, versions and code as cnn_gru.capsule.zip"),
    ("deepfake capsule best:lr_batch --weights --data --output best.zip", "with its weights, and the crops it read"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, what of it, and where to."""
    parser.add_argument(
        "run", metavar="RUN", help="an id, a name, a run folder, a config.yaml, STUDY:NUMBER or best:STUDY"
    )
    parser.add_argument(
        "places", nargs="*", metavar="key=value", help="where runs are looked up: paths.outputs, tracking.uri"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"where to (default NAME{SUFFIX}, here)")
    parser.add_argument("--weights", action="store_true", help="bring the weights of its best epoch")
    parser.add_argument("--data", action="store_true", help="bring the crops, and stored features, that it read")
    parser.add_argument("--force", action="store_true", help="replace the file where there is one")


def main(arguments: argparse.Namespace) -> int:
    """Collect, then write; nothing appears before all of it is there."""
    console = Console()
    read_overrides(arguments.places, EVALUATE)
    here = compose_run(arguments.places)
    store = locate(here.tracking, here.outputs)
    record = find_run(arguments.run, store, here.outputs)
    _check_result(record)
    target = (arguments.output or Path(f"{_file_name(record.name)}{SUFFIX}")).expanduser().absolute()
    _check_target(target, arguments.force)
    contents = collect(record, store, here.outputs, weights=arguments.weights, data=arguments.data)
    size = write_capsule(record, contents, target)
    _tell(record, contents, console)
    console.say(f"capsule: {target} ({size / 1e6:.2f} MB)")
    return 0


def _check_result(record: RunRecord) -> None:
    if "pruned" in record.tags:
        raise UserError(
            f"run {record} was pruned by its sweep before it had a result", "name a trial that ran to its end"
        )
    record.require_finished().refuse_ensemble("does not fit into a capsule", "put each of these into one")


def _file_name(name: str) -> str:
    """A name that every system takes for a file's."""
    return re.sub(r"[^\w.=,+-]+", "-", name).strip(".-") or "run"


def _check_target(target: Path, force: bool) -> None:
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {target.parent}", "make it first, or name another with --output")
    if target.is_dir():
        raise UserError(f"{target} is a folder", "name a file with --output")
    if target.exists() and not force:
        raise UserError(f"{target} is there already", "name another file with --output, or replace it with --force")


def _tell(record: RunRecord, contents: Contents, console: Console) -> None:
    console.say(f"run {record}: {len(contents.members)} files")
    for ancestor in contents.ancestors:
        console.say(f"ancestor: {ancestor['name']} ({ancestor['key']})")
    brought = [name.partition("/files/")[2] for name in contents.members if name.startswith("code/files/")]
    if brought:
        more = f" and {len(brought) - _MOST_NAMED} more" if len(brought) > _MOST_NAMED else ""
        console.say(f"note: it holds modules that are in no commit: {', '.join(brought[:_MOST_NAMED])}{more}")
    for line in contents.missing:
        console.warn(f"not in the capsule: {line}")
