"""``deepfake reproduce RUN``: runs of the past once more, and a verdict on whether they came out the same."""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from deepfake.config import RunConfig
from deepfake.errors import UserError
from deepfake.hydra_app import compose_run
from deepfake.installation import TRAIN
from deepfake.runs.capsules import Capsule, is_capsule, open_capsule
from deepfake.runs.causes import Cause, causes_table, find_causes
from deepfake.runs.console import Console
from deepfake.runs.environment import read_code, read_lock, rebuild, run_there
from deepfake.runs.packing import untracked_modules
from deepfake.runs.reproduction import (
    Surroundings,
    compare_surroundings,
    keep_report,
    likely_causes,
    read_causes,
    train_again,
)
from deepfake.runs.saved_config import REPRODUCE, Restored, read_overrides, restore, use_threads_of
from deepfake.tracking import tables
from deepfake.tracking.provenance import package_versions
from deepfake.tracking.reproducibility import DIFFERENT, IDENTICAL, Verdict
from deepfake.tracking.run_folder import RESOLVED
from deepfake.tracking.run_record import RunRecord
from deepfake.tracking.search import find_run, sweep_runs
from deepfake.tracking.store import locate

_STUDY = re.compile(r"study:(?P<name>.+)")
_SAMPLES = 10  # that differ and are named

EXAMPLES = (
    ("deepfake reproduce cnn_gru --check", "what differs from then, without running"),
    ("deepfake reproduce lr_batch:3 dataset.root=/mnt/faces", "again, its data being elsewhere now"),
    ("deepfake reproduce cnn_gru.capsule.zip", "what somebody else ran"),
    ("deepfake reproduce study:lr_batch --sample 3", "the best of a study and two others"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, what to change, and where things lie now."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="an id, a name, a run folder, a config.yaml, STUDY:NUMBER, best:STUDY, a capsule, or study:NAME for all "
        "runs of a study",
    )
    parser.add_argument(
        "places",
        nargs="*",
        metavar="RUN|key=value",
        help="further runs; where things lie or how the machine is used: dataset.root, paths.outputs, tracking.uri, "
        "trainer.num_workers, trainer.accelerator, …",
    )
    parser.add_argument("--check", action="store_true", help="only compare code, packages, machine and data")
    parser.add_argument(
        "--environment",
        action="store_true",
        help="in the Python, with the packages and the code that it had, installed into outputs/cache/environments",
    )
    parser.add_argument(
        "--apply-diff",
        action="store_true",
        help="with --environment: trust what came with the run, its packages and its uncommitted changes to the code",
    )
    parser.add_argument(
        "--sample", type=int, metavar="N", help="of a study's runs, its best and others drawn, N in all"
    )
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
    """Compare, run and compare again.

    Returns:
        1 where the results differ (with ``--check``: where the data does); of several runs, where one is not identical.
    """
    console = Console()
    words = [arguments.run, *arguments.places]
    # What a folder is called may hold an equals sign.
    runs = [word for n, word in enumerate(words) if n == 0 or "=" not in word or Path(word).exists()]
    places = [word for word in words[1:] if word not in runs]
    if arguments.sample is not None and arguments.sample < 1:
        raise UserError(f"--sample {arguments.sample} is no number of runs", "give 1 or more")
    if arguments.apply_diff and not arguments.environment:
        raise UserError("--apply-diff says what an environment is made of", "add --environment, or leave it out")
    references = [one for run in runs for one in _references(run, places, arguments.sample, console)]
    if arguments.environment:
        statuses = [_elsewhere(reference, places, arguments, console) for reference in references]
        return max(statuses)
    if len(references) == 1:
        done = _one(references[0], places, arguments, console)
        return int(not done.good)
    return _several(references, places, arguments, console)


@dataclass(frozen=True)
class _Done:
    """What came of one run.

    Attributes:
        name: What it is called.
        word: The verdict, or why there is none.
        good: Whether it is what one hopes for of a single run.
        cause: The likeliest; empty where nothing differs.
    """

    name: str
    word: str
    good: bool
    cause: str = ""


def _one(reference: str, places: Sequence[str], arguments: argparse.Namespace, console: Console) -> _Done:
    asked = find_asked(reference, places, arguments.set)
    surroundings = survey(asked, console)
    if arguments.check:
        changes = asked.restored.changes
        found = find_causes(surroundings.then, surroundings.now, surroundings.data, changes)
        _print_causes(found, "what could make it come out otherwise", console)
        same = surroundings.data.same
        return _Done(
            asked.record.name, "data the same" if same else "data differs", same, str(found[0]) if found else ""
        )
    verdict, again = run_again(asked, surroundings, arguments.tolerance, console)
    causes = read_causes(again)
    return _Done(asked.record.name, verdict.word, verdict.word != DIFFERENT, causes[0] if causes else "")


def _elsewhere(reference: str, places: Sequence[str], arguments: argparse.Namespace, console: Console) -> int:
    """The same command in the environment that the run had; returns how it ended."""
    here = _here(places)
    record, capsule = _find(reference, here, places)
    made = record.provenance()
    # Only what this machine's own store knows is the user's own.
    trusted = record.run_id is not None or arguments.apply_diff
    beside = untracked_modules(made)[0] if capsule is None else capsule.modules()
    lock, code = read_lock(made, trusted), read_code(made, beside, trusted)
    environment = rebuild(lock, code, here.cache, console.say)
    for note in environment.notes:
        console.warn(note)
    again = next(str(place) for place in record.places if (place / RESOLVED).is_file())
    if capsule is not None and (environment.code / "deepfake" / "runs" / "capsules.py").is_file():
        again = str(Path(reference).expanduser().absolute())
    words = ["reproduce", again, *places, "--tolerance", str(arguments.tolerance)]
    if lock.pins.get("mlflow") != package_versions().get("mlflow") and here.tracking.uri is None:
        # Another version of MLflow may not open the store of this one.
        words.append(f"tracking.uri=sqlite:///{environment.folder}/mlflow.db")
    words += [word for text in arguments.set for word in ("--set", text)] + ["--check"] * arguments.check
    return run_there(environment, words, here.outputs)


def _several(references: Sequence[str], places: Sequence[str], arguments: argparse.Namespace, console: Console) -> int:
    """One after another; one that cannot be run does not keep the others from it. A table tells of all."""
    rows = []
    for number, reference in enumerate(references, start=1):
        console.say(f"--- {number} of {len(references)}: {reference}")
        try:
            done = _one(reference, places, arguments, console)
        except UserError as error:
            console.warn(f"{reference}: {error.message}; {error.hint}")
            done = _Done(reference, f"not run: {error.message}", False)
        rows.append({"run": done.name, "verdict": done.word, "likeliest cause": done.cause})
    table = pd.DataFrame(rows)
    console.table(tables.to_terminal(table, list(table.columns), "", f"{len(rows)} runs"))
    best = "data the same" if arguments.check else IDENTICAL
    same = int((table["verdict"] == best).sum())
    console.say(f"{same} of {len(rows)}: {best}")
    return int(same < len(rows))


def _references(run: str, places: Sequence[str], sample: int | None, console: Console) -> list[str]:
    """The runs that a word means: itself, or those of a study."""
    match = _STUDY.fullmatch(run)
    if match is None:
        return [run]
    here = _here(places)
    store = locate(here.tracking, here.outputs)
    study, rest = match["name"], []
    for record in sweep_runs(study, store, here.outputs):
        if record.status == "FINISHED" and "pruned" not in record.tags:
            rest.append(record.reference)
    if not rest:
        raise UserError(f"the study {study!r} has no run that came to its end", "wait for one")
    try:
        record = find_run(f"best:{study}", store, here.outputs)
        best = record.reference
    except UserError as error:
        console.warn(f"{error.message}: it is not picked out")
        best = None
    return draw_runs(rest, best, sample)


def draw_runs(runs: Sequence[str], best: str | None, sample: int | None) -> list[str]:
    """Some of a study's runs, the best first, the others in their order; the same ones each time.

    Args:
        runs: All, in order.
        best: The best one, where it is known.
        sample: How many; None for all.

    Example:
        >>> draw_runs(["a", "b", "c"], "b", 1)
        ['b']
    """
    others = [run for run in runs if run != best]
    first = [best] if best is not None else []
    if sample is not None:
        count = min(max(0, sample - len(first)), len(others))
        others = sorted(random.Random(0).sample(others, count), key=others.index)
    return [*first, *others]


def _here(places: Sequence[str]) -> RunConfig:
    read_overrides(places, REPRODUCE)
    return compose_run([text for text in places if text.startswith(("paths.", "tracking."))])


def find_asked(reference: str, places: Sequence[str], sets: Sequence[str]) -> Asked:
    """The run that is meant, and its config laid out for this machine.

    Args:
        reference: As :func:`deepfake.tracking.search.find_run` takes it, or a capsule.
        places: Where things lie or how the machine is used now.
        sets: Changes.

    Raises:
        UserError: No such run, one without a result, or an override that may not be said.
    """
    record, capsule = _find(reference, _here(places), places)
    return Asked(record, restore(record, places, sets, capsule.origins if capsule else None), capsule)


def _find(reference: str, here: RunConfig, places: Sequence[str]) -> tuple[RunRecord, Capsule | None]:
    """The run that is meant, with the capsule that it came in; it has a result to compare with."""
    if not is_capsule(reference):
        record = find_run(reference, locate(here.tracking, here.outputs), here.outputs)
        _check_result(record)
        return record, None
    capsule = open_capsule(Path(reference).expanduser().absolute(), here.cache)
    if any(text.startswith("dataset.") for text in places):
        # Files that were named are read, whatever crops came along.
        capsule = capsule.without_data()
    return capsule.record, capsule


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
