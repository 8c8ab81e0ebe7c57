"""``deepfake reproduce RUN``: runs of the past once more, and a verdict on whether they came out the same."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfake.errors import UserError
from deepfake.hydra_app import compose_run
from deepfake.installation import TRAIN
from deepfake.runs.capsules import Capsule, is_capsule, open_capsule
from deepfake.runs.causes import Cause, causes_table, find_causes
from deepfake.runs.console import Console
from deepfake.runs.reproduction import (
    Surroundings,
    compare_surroundings,
    keep_report,
    likely_causes,
    train_again,
)
from deepfake.runs.saved_config import REPRODUCE, Restored, read_overrides, restore, use_threads_of
from deepfake.tracking import tables
from deepfake.tracking.reproducibility import DIFFERENT, IDENTICAL, Verdict
from deepfake.tracking.run_record import RunRecord
from deepfake.tracking.search import find_run
from deepfake.tracking.store import locate

_SAMPLES = 10  # that differ and are named

EXAMPLES = (
    ("deepfake reproduce cnn_gru --check", "what differs from then, without running"),
    ("deepfake reproduce lr_batch:3 dataset.root=/mnt/faces", "again, its data being elsewhere now"),
    ("deepfake reproduce cnn_gru.capsule.zip", "what somebody else ran"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, what to change, and where things lie now."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="an id, a name, a run folder, a config.yaml, STUDY:NUMBER, best:STUDY or a capsule",
    )
    parser.add_argument(
        "places",
        nargs="*",
        metavar="key=value",
        help="where things lie or how the machine is used: dataset.root, paths.outputs, tracking.uri, "
        "trainer.num_workers, trainer.accelerator, …",
    )
    parser.add_argument("--check", action="store_true", help="only compare code, packages, machine and data")
    parser.add_argument(
        "--set", action="append", default=[], metavar="key=value", help="run with this change; again for another"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="how far a score may be off, or a metric as a share of its size where that is above 1 (default 1e-3)",
    )


@dataclass(frozen=True)
class Asked:
    """What is to be run again.

    Attributes:
        record: The run.
        restored: Its config, laid out for this machine.
        capsule: What it came in, where it came in one.
    """

    record: RunRecord
    restored: Restored
    capsule: Capsule | None = None


def main(arguments: argparse.Namespace) -> int:
    """Compare, run and compare again; 1 where the results differ (with --check: where the data does)."""
    console = Console()
    asked = find_asked(arguments.run, arguments.places, arguments.set)
    surroundings = survey(asked, console)
    if arguments.check:
        changes = asked.restored.changes
        found = find_causes(surroundings.then, surroundings.now, surroundings.data, changes)
        _print_causes(found, "what could make it come out otherwise", console)
        return int(not surroundings.data.same)
    verdict, _ = run_again(asked, surroundings, arguments.tolerance, console)
    return int(verdict.word == DIFFERENT)


def find_asked(reference: str, places: Sequence[str], sets: Sequence[str]) -> Asked:
    """The run that is meant, and its config laid out for this machine.

    Args:
        reference: As :func:`deepfake.tracking.search.find_run` takes it, or a capsule.
        places: Where things lie or how the machine is used now.
        sets: Changes.

    Raises:
        UserError: No such run, one without a result, or an override that may not be said.
    """
    read_overrides(places, REPRODUCE)
    here = compose_run([text for text in places if text.startswith(("paths.", "tracking."))])
    if not is_capsule(reference):
        record = find_run(reference, locate(here.tracking, here.outputs), here.outputs)
        _check_result(record)
        return Asked(record, restore(record, places, sets))
    capsule = open_capsule(Path(reference).expanduser().absolute(), here.cache)
    if any(text.startswith("dataset.") for text in places):
        # Files that were named are read, whatever crops came along.
        capsule = capsule.without_data()
    return Asked(capsule.record, restore(capsule.record, places, sets, capsule.origins), capsule)


def _check_result(record: RunRecord) -> None:
    """Refuse a run that left nothing to compare with."""
    if "pruned" in record.tags:
        raise UserError(
            f"run {record} was pruned by its sweep before it had a result",
            f"name another trial, or train this one to its end: {TRAIN} with its overrides "
            f"({' '.join(record.overrides())})",
        )
    record.require_finished().provenance()
    record.predictions("split")


def survey(asked: Asked, console: Console) -> Surroundings:
    """What the run would meet here, told; from here on as many threads work as then."""
    console.say(f"run {asked.record}")
    for line in asked.capsule.missing if asked.capsule else ():
        console.warn(f"not in the capsule: {line}")
    use_threads_of(asked.record)
    surroundings = compare_surroundings(asked.record, asked.restored, console, asked.capsule)
    _print(surroundings, asked.restored, console)
    return surroundings


def run_again(
    asked: Asked, surroundings: Surroundings, tolerance: float, console: Console
) -> tuple[Verdict, RunRecord]:
    """Run it, compare, tell and keep; returns the verdict and the new run."""
    record, restored = asked.record, asked.restored
    again = train_again(record, restored, surroundings, tolerance)
    verdict = again.verdict
    causes = likely_causes(record, again, restored, surroundings)
    keep_report(again, surroundings, restored, causes, record)
    console.table(tables.to_terminal(verdict.metrics, list(verdict.metrics.columns), "", "then and now"))
    for note in verdict.notes:
        console.say(note)
    console.say(f"tolerance: {tolerance:g} for scores, and for metrics as a share of the larger of 1 and their size")
    if verdict.word != IDENTICAL:
        _print_causes(causes, "likely causes, the most likely first", console)
        if causes:
            console.say(f"most likely: {causes[0]}")
        else:
            console.say("nothing that was noted of both runs differs: something that nobody notes does")
    console.say(str(verdict))
    return verdict, again.record


def _print_causes(causes: list[Cause], title: str, console: Console) -> None:
    if causes:
        table = causes_table(causes)
        console.table(tables.to_terminal(table, list(table.columns), "", title))


def _print(surroundings: Surroundings, restored: Restored, console: Console) -> None:
    for key, (then, now) in restored.changes.items():
        console.say(f"changed: {key} {then} -> {now}")
    if surroundings.differences.empty:
        console.say("nothing differs here from where it ran")
    else:
        console.table(
            tables.to_terminal(
                surroundings.differences, list(surroundings.differences.columns), "", "what differs from then"
            )
        )
    if surroundings.code:
        console.say(f"note: for the code it ran: {surroundings.code}")
    console.say(f"the same: {', '.join(surroundings.same)}")
    for note in surroundings.notes:
        console.warn(note)
    data = surroundings.data
    for name, (then, now) in data.moved.items():
        console.say(f"note: {name} lay in {then}, and lies in {now} now")
    for line in surroundings.found:
        console.say(f"note: {line}")
    how = f"{data.hashed} of {data.samples} samples by SHA-256"
    if data.hashed < data.samples:
        how += ", the others by size: no digest was recorded"
    if data.same:
        console.say(f"data: the same ({how})")
        return
    counts = f"{data.rows['sample_id'].nunique()} of {data.samples} samples are not the same ({how})"
    console.table(tables.to_terminal(data.rows.head(_SAMPLES), list(data.rows.columns), "", "samples that differ"))
    console.warn(f"data: {counts}" + (f"; the first {_SAMPLES} are named" if len(data.rows) > _SAMPLES else ""))
