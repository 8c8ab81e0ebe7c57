"""A run of the past once more: what it would meet here, the run itself, and a verdict on whether it came out the same.

What it would meet (code, packages, machine, files) is found out first, without training. Prints nothing but progress.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from deepfake.config import RunConfig
from deepfake.data.crop_records import read_records
from deepfake.data.crop_store import open_store, store_folder
from deepfake.data.digests import Found, find_files, with_facts
from deepfake.data.manifest import Manifest
from deepfake.data.prepare import cut_settings, digest_files
from deepfake.errors import DataError, Interrupted, UserError
from deepfake.installation import TRAIN
from deepfake.models.detector import Detector
from deepfake.options import flatten
from deepfake.runs.artifacts import provenance
from deepfake.runs.build import Cache, Inputs, first_detector, read_manifest
from deepfake.runs.capsules import Capsule
from deepfake.runs.causes import Cause, edited_keys, find_causes
from deepfake.runs.console import Console
from deepfake.runs.processes import check_processes, is_one_of_several, processes_of, train_over
from deepfake.runs.saved_config import Restored
from deepfake.tracking.provenance import DataChanges, compare_manifests, compare_worlds
from deepfake.tracking.reproducibility import IDENTICAL, Verdict, compare_results
from deepfake.tracking.run_folder import write_json
from deepfake.tracking.run_record import RunRecord
from deepfake.tracking.search import find_run
from deepfake.tracking.store import Store, locate

#: In the new run's folder: what differed before it began, and what came out.
REPORT = "reproduction.json"
_CODE = ("git commit", "uncommitted changes")
_COLUMNS = ("sha256", "bytes", "label", "split", "method", "path", "kind", "dataset")
_LOST = ("missing", "another file")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Surroundings:
    """What differs, and what does not.

    Attributes:
        then: The run's provenance.
        now: What it would be here.
        differences: One row per thing: what, then, now.
        same: The rest, for a line of text.
        data: Every sample against its file of now.
        notes: What could not be had here.
        code: How to get the code the run had; empty where it is this code.
        inputs: What is to be read; None where the config leads to it.
        found: What is to be said of where the data was found.
    """

    then: Mapping[str, Any]
    now: Mapping[str, Any]
    differences: pd.DataFrame
    same: list[str]
    data: DataChanges
    notes: list[str]
    code: str
    inputs: Inputs | None = None
    found: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Again:
    """A run that was run again.

    Attributes:
        record: The new one.
        verdict: How it compares.
        store: Where it is remembered.
    """

    record: RunRecord
    verdict: Verdict
    store: Store


def compare_surroundings(
    record: RunRecord, restored: Restored, console: Console, capsule: Capsule | None = None
) -> Surroundings:
    """Compare a run's surroundings with those it would have now.

    Args:
        record: The run.
        restored: Its config, laid out for this machine.
        console: Told how far reading files is.
        capsule: What it came in.

    Raises:
        DataError: The data set is not where the config says, and its files are not there under other names either.
    """
    then = record.provenance()
    config = restored.config
    count = processes_of(then)
    device, detector, notes = _equipment(config, count)
    files = _files(config, record, console, capsule)
    now: dict[str, Any] = provenance(
        config.seeds, files.manifest, files.crops, restored.context.choices, device, detector
    )
    if count > 1 and not is_one_of_several():
        now = _over(count, then, now)
    differences, same = compare_worlds(then, now)
    code = how_to_get_code(then.get("git") or {}) if differences["what"].isin(_CODE).any() else ""
    roots = (then.get("data", {}).get("roots", {}), now["data"]["roots"])
    changes = compare_manifests(record.manifest(*_COLUMNS), files.manifest.table, roots)
    return Surroundings(then, now, differences, same, changes, notes, code, files.inputs, files.notes)


def how_to_get_code(git: Mapping[str, Any]) -> str:
    """How to get the code that a run was made with, from what was noted of it."""
    if not git.get("commit"):
        return ""
    diff = ", then git apply what its provenance.json holds as git.diff" if git.get("diff") else ""
    return f"git checkout {git['commit']}{diff}"


def _over(count: int, then: Mapping[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What several processes would note, of which this one is none."""
    told = then.get("environment", {})
    started = {name: told[name] for name in ("WORLD_SIZE", "OMP_NUM_THREADS") if name in told}
    noted = {"processes": count} if "processes" in then.get("machine", {}) else {}
    return {
        **now,
        "environment": {**now["environment"], **started},
        "machine": {**now["machine"], "processes": 1, **noted},
    }


def _equipment(config: RunConfig, processes: int) -> tuple[str, Detector | None, list[str]]:
    """The device and the untrained detector, as far as they can be had, and why not."""
    from deepfake.training.runtime import create_fabric, seed_everything

    device, detector, notes = "none", None, []
    try:
        options = config.trainer
        if processes > 1 and not is_one_of_several():
            check_processes(processes, options.accelerator)
            # Each of them gets one; this one only looks.
            options = replace(options, devices="auto")
        device = str(create_fabric(options).device)
    except UserError as error:
        notes.append(f"{error.message}; {error.hint}")
    seed_everything(config.seed, config.trainer.deterministic)
    try:
        detector = first_detector(config, locate(config.tracking, config.outputs), Cache())
    except UserError as error:
        notes.append(f"{error.message}; {error.hint}")
    return device, detector, notes


@dataclass(frozen=True)
class _Files:
    """The data set of now.

    Attributes:
        manifest: With the size and digest of every file as it is.
        crops: The name of its crop store.
        inputs: Where it is not what the config leads to.
        notes: What is to be said of it.
    """

    manifest: Manifest
    crops: str
    inputs: Inputs | None = None
    notes: list[str] = field(default_factory=list)


def _files(config: RunConfig, record: RunRecord, console: Console, capsule: Capsule | None) -> _Files:
    """The data set where the config says, in the capsule, or found again by the digests of its files."""
    then = record.manifest(*_COLUMNS)
    if capsule is not None and capsule.crops is not None:
        return _brought(then, capsule.crops, capsule.features)
    try:
        manifest = read_manifest(config, console)
    except DataError as error:
        found = _found_again(config, record, then, console)
        if found is None or len(found.missing):
            raise _absent(error, config, record, found) from error
        return _digested(config, found, False, console)
    files = _read(config, manifest, console)
    rows = compare_manifests(then, files.manifest.table, ({}, {})).rows
    lost = rows[rows["change"].str.startswith(_LOST)]
    if lost.empty:
        return files
    found = _found_again(config, record, then, console)
    still = set() if found is None else {*found.missing["sample_id"]}
    if found is None or not (found.renamed and {*lost["sample_id"]} - still):
        return files
    return _digested(config, found, manifest.official, console)


def _brought(then: pd.DataFrame, crops: Path, features: Path | None) -> _Files:
    """What a capsule brings: no file of the data set is read."""
    manifest = Manifest(then, dict.fromkeys(sorted(set(then["dataset"])), crops))
    records = open_store(crops, manifest).records
    facts = {name: (int(record["bytes"]), str(record["sha256"])) for name, record in records.items()}
    notes = ["the crops are the capsule's; no file of the data set is read (dataset.root= names them)"]
    return _Files(with_facts(manifest, facts), crops.name, Inputs(manifest, crops, features), notes)


def _read(config: RunConfig, manifest: Manifest, console: Console) -> _Files:
    folder = store_folder(manifest, cut_settings(config.dataset, config.head.temporal, config.cache), config.cache)
    records = read_records(folder) if folder.is_dir() else {}
    with console.progress() as bar:
        return _Files(digest_files(manifest, records, bar), folder.name)


def _found_again(config: RunConfig, record: RunRecord, then: pd.DataFrame, console: Console) -> Found | None:
    """The run's files below where its data sets are said to lie; None where no such folder is there."""
    roots = _roots(config, record, then)
    if not roots:
        return None
    with console.progress() as bar:
        return find_files(then, roots, bar)


def _roots(config: RunConfig, record: RunRecord, then: pd.DataFrame) -> dict[str, Path]:
    """A folder that is there for each data set: the one typed or saved, else where it lay."""
    parts = {str(part.get("name", part.get("layout"))): part.get("root") for part in config.dataset.parts}
    lay = record.provenance().get("data", {}).get("roots", {})
    found = {}
    for name in sorted(set(then["dataset"])):
        for place in (parts.get(name), config.dataset.root, lay.get(name)):
            if place is not None and Path(place).expanduser().is_dir():
                found[name] = Path(place).expanduser().absolute()
                break
        else:
            return {}
    return found


def _digested(config: RunConfig, found: Found, official: bool, console: Console) -> _Files:
    manifest = replace(found.manifest, official=official)
    files = _read(config, manifest, console)
    notes = []
    if found.renamed:
        few = ", ".join(f"{old} is {new}" for old, new in list(found.renamed.items())[:_MOST_NAMED])
        more = ", …" if len(found.renamed) > _MOST_NAMED else ""
        notes.append(f"{len(found.renamed)} files lie under other names, known by their SHA-256: {few}{more}")
    return replace(files, inputs=Inputs(manifest), notes=notes)


def _absent(error: UserError, config: RunConfig, record: RunRecord, found: Found | None) -> UserError:
    """What is missing, and where it was looked for."""
    lay = ", ".join(f"{name} in {at}" for name, at in record.provenance().get("data", {}).get("roots", {}).items())
    hint = f"{error.hint}; the run read {lay}: name where it lies now, dataset.root=…"
    if found is None:
        return DataError(error.message, hint)
    missing = found.missing
    first = missing.iloc[0]
    digest = f"SHA-256 {first.sha256}" if first.sha256 else "no digest was recorded"
    where = ", ".join(sorted({str(root) for root in found.manifest.roots.values()}))
    count = len(missing) + len(found.manifest)
    return DataError(
        f"{len(missing)} of the {count} files that the run read are not below {where}, under any name: "
        f"{first.path} ({digest}){' and others' if len(missing) > 1 else ''}",
        hint,
    )


def train_again(record: RunRecord, restored: Restored, surroundings: Surroundings, tolerance: float) -> Again:
    """Train once more and compare with the run; what was found is kept in the new run's folder and in MLflow.

    Raises:
        KeyboardInterrupt: It was stopped; says how to go on.
    """
    tags = {"reproduced_from": record.reference, "reproduced_from.name": record.name}
    if restored.changes:
        tags["reproduced_with"] = " ".join(f"{key}={now}" for key, (_, now) in restored.changes.items())
    context = replace(restored.context, tags=tags)
    folder = _train(replace(restored, context=context), surroundings)
    store = locate(restored.config.tracking, restored.config.outputs)
    again = find_run(folder, store, restored.config.outputs)
    verdict = compare_results(
        record.metrics(),
        again.metrics(),
        (record.predictions(), again.predictions()),
        (record.history(), again.history()),
        tolerance,
    )
    return Again(again, verdict, store)


def _train(restored: Restored, surroundings: Surroundings) -> str:
    """The folder of the new run."""
    from deepfake.runs.train import run

    context, count = restored.context, processes_of(surroundings.then)
    try:
        if count > 1 and not is_one_of_several():
            check_processes(count, restored.config.trainer.accelerator)
            train_over(count, restored.values, context, surroundings.inputs)
            return str(context.folder)
        return run(restored.config, context, flatten(restored.values), surroundings.inputs).run_dir
    except Interrupted as error:
        # What it read in the place of what its config leads to, nobody would know who went on with it.
        how = f"{TRAIN} resume={context.folder}" if surroundings.inputs is None else "the same command, from the start"
        raise KeyboardInterrupt(f"{error}; go on with: {how}") from error


def likely_causes(record: RunRecord, again: Again, restored: Restored, surroundings: Surroundings) -> list[Cause]:
    """What may have made it come out otherwise, the most likely first; nothing where it came out the same."""
    if again.verdict.word == IDENTICAL:
        return []
    now = again.record.provenance()
    return find_causes(surroundings.then, now, surroundings.data, restored.changes, edited_keys(record))


def keep_report(
    again: Again, surroundings: Surroundings, restored: Restored, causes: Sequence[Cause], source: RunRecord
) -> None:
    """The findings in the new run's folder and among its artifacts, the verdict as a tag."""
    from deepfake.tracking.run import reopen

    verdict, record = again.verdict, again.record
    path = record.places[0] / REPORT
    write_json(
        path,
        {
            "reproduced_from": source.reference,
            "verdict": verdict.word,
            "tolerance": verdict.tolerance,
            "changed": {key: {"then": then, "now": now} for key, (then, now) in restored.changes.items()},
            "surroundings": _rows(surroundings.differences),
            "data": {
                "samples": surroundings.data.samples,
                "differ": _rows(surroundings.data.rows),
                "moved": surroundings.data.moved,
                "found": surroundings.found,
            },
            "metrics": _rows(verdict.metrics),
            "notes": verdict.notes,
            "causes": [{"kind": one.kind, "what": one.text, "known": one.checked} for one in causes],
        },
    )
    if record.run_id is not None:
        run = reopen(again.store, record.run_id)
        run.tags({"verdict": verdict.word})
        run.files([path])


def read_causes(record: RunRecord) -> list[str]:
    """The causes that :func:`keep_report` kept with a run, each in a line."""
    path = record.places[0] / REPORT
    found = json.loads(path.read_text(encoding="utf-8")).get("causes", [])
    return [str(Cause(one["kind"], one["what"], one["known"])) for one in found]


def _rows(frame: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
