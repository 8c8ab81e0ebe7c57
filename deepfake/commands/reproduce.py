"""``deepfake reproduce RUN``: a run of the past once more, and a verdict on whether it came out the same.

What it would meet here (code, packages, machine, files) is found out first, without training."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from deepfake.config import RunConfig
from deepfake.data.crop_records import read_records
from deepfake.data.crop_store import store_folder
from deepfake.data.manifest import Manifest
from deepfake.data.prepare import cut_settings, digest_files
from deepfake.errors import Interrupted, UserError
from deepfake.hydra_app import compose_run
from deepfake.installation import TRAIN
from deepfake.models.detector import Detector
from deepfake.options import flatten
from deepfake.runs.artifacts import provenance
from deepfake.runs.build import Cache, first_detector, read_manifest
from deepfake.runs.console import Console
from deepfake.runs.saved_config import REPRODUCE, Restored, read_overrides, restore, use_threads_of
from deepfake.tracking import tables
from deepfake.tracking.provenance import DataChanges, compare_manifests, compare_worlds
from deepfake.tracking.reproducibility import DIFFERENT, Verdict, compare_results
from deepfake.tracking.run_folder import write_json
from deepfake.tracking.run_record import RunRecord
from deepfake.tracking.search import find_run
from deepfake.tracking.store import Store, locate

#: In the new run's folder: what differed before it began, and what came out.
REPORT = "reproduction.json"
_CODE = ("git commit", "uncommitted changes")
_SAMPLES = 10  # that differ and are named


@dataclass(frozen=True)
class Surroundings:
    """What differs, and what does not.

    Attributes:
        differences: One row per thing: what, then, now.
        same: The rest, for a line of text.
        data: Every sample against its file of now.
        notes: What could not be had here.
        code: How to get the code the run had; empty where it is this code.
    """

    differences: pd.DataFrame
    same: list[str]
    data: DataChanges
    notes: list[str]
    code: str


def compare_surroundings(record: RunRecord, restored: Restored, console: Console) -> Surroundings:
    """Compare a run's surroundings with those it would have now.

    Raises:
        DataError: The data set is not where the config says.
    """
    then = record.provenance()
    config = restored.config
    device, detector, notes = _equipment(config)
    manifest, folder = _files(config, record, console)
    now = provenance(config.seeds, manifest, folder, restored.context.choices, device, detector)
    differences, same = compare_worlds(then, now)
    code = how_to_get_code(then.get("git") or {}) if differences["what"].isin(_CODE).any() else ""
    roots = (then.get("data", {}).get("roots", {}), now["data"]["roots"])  # type: ignore[index]
    before = record.manifest("sha256", "bytes", "label", "split", "method")
    return Surroundings(differences, same, compare_manifests(before, manifest.table, roots), notes, code)


def how_to_get_code(git: Mapping[str, Any]) -> str:
    """How to get the code that a run was made with, from what was noted of it."""
    if not git.get("commit"):
        return ""
    diff = ", then git apply what its provenance.json holds as git.diff" if git.get("diff") else ""
    return f"git checkout {git['commit']}{diff}"


def _equipment(config: RunConfig) -> tuple[str, Detector | None, list[str]]:
    """The device and the untrained detector, as far as they can be had, and why not."""
    from deepfake.training.runtime import create_fabric, seed_everything

    device, detector, notes = "none", None, []
    try:
        device = str(create_fabric(config.trainer).device)
    except UserError as error:
        notes.append(f"{error.message}; {error.hint}")
    seed_everything(config.seed, config.trainer.deterministic)
    try:
        detector = first_detector(config, locate(config.tracking, config.outputs), Cache())
    except UserError as error:
        notes.append(f"{error.message}; {error.hint}")
    return device, detector, notes


def _files(config: RunConfig, record: RunRecord, console: Console) -> tuple[Manifest, str]:
    """The data set of now, every file digested, and the name of its crop store."""
    try:
        manifest = read_manifest(config, console)
    except UserError as error:
        roots = record.provenance().get("data", {}).get("roots", {})
        lay = ", ".join(f"{name} in {folder}" for name, folder in roots.items())
        raise UserError(
            error.message, f"{error.hint}; the run read {lay}: name where it lies now, dataset.root=…"
        ) from error
    folder = store_folder(manifest, cut_settings(config.dataset, config.head.temporal, config.cache), config.cache)
    records = read_records(folder) if folder.is_dir() else {}
    with console.progress() as bar:
        return digest_files(manifest, records, bar), folder.name


EXAMPLES = (
    ("deepfake reproduce cnn_gru --check", "what differs from then, without running"),
    ("deepfake reproduce lr_batch:3 dataset.root=/mnt/faces", "again, its data being elsewhere now"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, what to change, and where things lie now."""
    parser.add_argument(
        "run", metavar="RUN", help="an id, a name, a run folder, a config.yaml, STUDY:NUMBER or best:STUDY"
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


def main(arguments: argparse.Namespace) -> int:
    """Compare, run and compare again; 1 where the results differ (with --check: where the data does)."""
    console = Console()
    record, restored = find_restored(arguments.run, arguments.places, arguments.set)
    surroundings = survey(record, restored, console)
    if arguments.check:
        return int(not surroundings.data.same)
    verdict, _ = run_again(record, restored, surroundings, arguments.tolerance, console)
    return int(verdict.word == DIFFERENT)


def find_restored(reference: str, places: Sequence[str], sets: Sequence[str]) -> tuple[RunRecord, Restored]:
    """The run that is meant, and its config laid out for this machine.

    Args:
        reference: As :func:`deepfake.tracking.search.find_run` takes it.
        places: Where things lie or how the machine is used now.
        sets: Changes.

    Raises:
        UserError: No such run, one without a result, or an override that may not be said.
    """
    read_overrides(places, REPRODUCE)
    here = compose_run([text for text in places if text.startswith(("paths.", "tracking."))])
    record = find_run(reference, locate(here.tracking, here.outputs), here.outputs)
    _check_result(record)
    return record, restore(record, places, sets)


def survey(record: RunRecord, restored: Restored, console: Console) -> Surroundings:
    """What the run would meet here, told; from here on as many threads work as then."""
    console.say(f"run {record}")
    use_threads_of(record)
    surroundings = compare_surroundings(record, restored, console)
    _print(surroundings, restored, console)
    return surroundings


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


def run_again(
    record: RunRecord, restored: Restored, surroundings: Surroundings, tolerance: float, console: Console
) -> tuple[Verdict, RunRecord]:
    """Run it, compare, tell and keep; returns the verdict and the new run."""
    from deepfake.runs.train import run

    source = record.run_id or str(record.places[0])
    tags = {"reproduced_from": source, "reproduced_from.name": record.name}
    if restored.changes:
        tags["reproduced_with"] = " ".join(f"{key}={now}" for key, (_, now) in restored.changes.items())
    context = replace(restored.context, tags=tags)
    try:
        result = run(restored.config, context, parameters=flatten(restored.values))
    except Interrupted as error:
        raise KeyboardInterrupt(f"{error}; go on with: {TRAIN} resume={context.folder}") from error
    store = locate(restored.config.tracking, restored.config.outputs)
    again = find_run(result.run_dir, store, restored.config.outputs)
    verdict = compare_results(
        record.metrics(),
        again.metrics(),
        (record.predictions(), again.predictions()),
        (record.history(), again.history()),
        tolerance,
    )
    _keep(source, again, surroundings, restored, verdict, store)
    console.table(tables.to_terminal(verdict.metrics, list(verdict.metrics.columns), "", "then and now"))
    for note in verdict.notes:
        console.say(note)
    console.say(f"tolerance: {tolerance:g} for scores, and for metrics as a share of the larger of 1 and their size")
    console.say(str(verdict))
    return verdict, again


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
    how = f"{data.hashed} of {data.samples} samples by SHA-256"
    if data.hashed < data.samples:
        how += ", the others by size: no digest was recorded"
    if data.same:
        console.say(f"data: the same ({how})")
        return
    counts = f"{data.rows['sample_id'].nunique()} of {data.samples} samples are not the same ({how})"
    console.table(tables.to_terminal(data.rows.head(_SAMPLES), list(data.rows.columns), "", "samples that differ"))
    console.warn(f"data: {counts}" + (f"; the first {_SAMPLES} are named" if len(data.rows) > _SAMPLES else ""))


def _keep(
    source: str, again: RunRecord, surroundings: Surroundings, restored: Restored, verdict: Verdict, store: Store
) -> None:
    """The findings in the new run's folder and among its artifacts, the verdict as a tag."""
    from deepfake.tracking.run import reopen

    path = again.places[0] / REPORT
    write_json(
        path,
        {
            "reproduced_from": source,
            "verdict": verdict.word,
            "tolerance": verdict.tolerance,
            "changed": {key: {"then": then, "now": now} for key, (then, now) in restored.changes.items()},
            "surroundings": _rows(surroundings.differences),
            "data": {
                "samples": surroundings.data.samples,
                "differ": _rows(surroundings.data.rows),
                "moved": surroundings.data.moved,
            },
            "metrics": _rows(verdict.metrics),
            "notes": verdict.notes,
        },
    )
    if again.run_id is not None:
        run = reopen(store, again.run_id)
        run.tags({"verdict": verdict.word})
        run.files([path])


def _rows(frame: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
