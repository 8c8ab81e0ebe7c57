"""Several runs of the past as one: whether their scores may be averaged, the averages, and the run that keeps them.

Trains nothing and opens no sample: what the members said of their test split is in their files. How an ensemble is
loaded again stands in :mod:`deepfake.runs.load`.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepfake.config import RunConfig, is_environment_key, load_values, plain_yaml
from deepfake.data.manifest import Manifest
from deepfake.errors import UserError, first_line
from deepfake.metrics import metric_names, sample_metrics
from deepfake.options import flatten
from deepfake.runs.artifacts import keep_numbers, provenance
from deepfake.runs.card import open_crops, run_card
from deepfake.runs.console import Console
from deepfake.runs.evaluate import Evaluated, measure_splits
from deepfake.runs.load import file_digest, pooled, shared_predictions
from deepfake.runs.saved_config import CROP_KEYS, Changes, apply_changes
from deepfake.tracking import page
from deepfake.tracking import run_folder as files
from deepfake.tracking.figures import draw_run
from deepfake.tracking.notes import run_note
from deepfake.tracking.run import RunLog, track
from deepfake.tracking.run_folder import RunFolder, write_json
from deepfake.tracking.run_record import Member, RunRecord, from_folder
from deepfake.tracking.store import Store
from deepfake.training.fitting import fit_decision
from deepfake.training.options import EvaluationOptions
from deepfake.training.scoring import Scored

#: Raised with every change that an older reader would misread.
FORMAT = 1
#: What an ensemble costs, from what its members cost.
_SUMMED, _LARGEST = ("parameters", "latency_ms", "train_seconds"), ("peak_memory_bytes",)
_SEEN = ("train", "val")


@dataclass(frozen=True)
class Joined:
    """Runs that may be averaged, and what they have in common.

    Attributes:
        records: The runs.
        manifest: Every sample that one of them was trained, chosen or tested on; ``test`` and ``val`` are what is so to
            all of them.
        notes: What a reader must know of the samples.
    """

    records: Sequence[RunRecord]
    manifest: Manifest
    notes: Sequence[str]


def join_runs(records: Sequence[RunRecord]) -> Joined:
    """Find out whether the scores of some runs may be averaged, and on which samples that can be tested.

    Raises:
        UserError: Fewer than two, the same twice, one that is an ensemble or never finished, no sample that all were
            tested on, labels that differ, or one was trained on what another is tested on; names the runs.
    """
    if len(records) < 2:
        raise UserError("an ensemble of one run is that run", "name two runs or more")
    for record in records:
        record.require_finished().refuse_ensemble(
            "cannot be a member of an ensemble", "name the runs that it is made of"
        )
    _refuse_same(records)
    tables = [
        record.manifest("label", "split", "bytes", "dataset", "path").set_index("sample_id") for record in records
    ]
    _refuse_seen(records, tables)
    table, notes = _joined_table(records, tables)
    return Joined(records, Manifest(table, _roots(records)), notes)


def _refuse_same(records: Sequence[RunRecord]) -> None:
    known: dict[str, RunRecord] = {}
    for record in records:
        digest = file_digest(record.weights())
        if digest in known:
            raise UserError(
                f"{known[digest]} and {record} are one detector: their weights are the same", "name each run once"
            )
        known[digest] = record


def _refuse_seen(records: Sequence[RunRecord], tables: Sequence[pd.DataFrame]) -> None:
    """Refuse runs of which one was trained, or its best epoch chosen, on what another is tested on.

    That a published split has the same people on both sides is no reason: each run on it says so itself.
    """
    for tested, own in zip(records, tables, strict=True):
        test, known = own[own["split"] == "test"], own[own["split"].isin(_SEEN)]
        for trained, other in zip(records, tables, strict=True):
            again = _known(test, other[other["split"].isin(_SEEN)], known)
            if again.any():
                raise UserError(
                    f"{trained} was trained or chosen on {int(again.sum())} of the {len(test)} samples that {tested} "
                    f"is tested on, such as {test.index[again][0]!r}, or on footage of theirs",
                    "name runs on the same splits: the same dataset.* and dataset.split_seed",
                )


def _known(test: pd.DataFrame, seen: pd.DataFrame, own: pd.DataFrame) -> np.ndarray:
    """Which samples are among those seen, by name, content or footage; what a run's own splits share does not count."""
    groups = _groups(seen) - _groups(own)
    found = test.index.isin(seen.index) | ~test["groups"].map(groups.isdisjoint).to_numpy(bool)
    if all("sha256" in table for table in (test, seen, own)):
        digests = set(seen["sha256"].dropna()) - set(own["sha256"].dropna()) - {""}
        found |= test["sha256"].isin(digests).to_numpy(bool)
    return np.asarray(found)


def _groups(table: pd.DataFrame) -> set[str]:
    return {name for groups in table["groups"] for name in groups}


def _joined_table(records: Sequence[RunRecord], tables: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    first = tables[0]
    for record, other in zip(records[1:], tables[1:], strict=True):
        common = first.index.intersection(other.index)
        odd = common[(first.loc[common, "label"] != other.loc[common, "label"]).to_numpy()]
        if len(odd):
            raise UserError(
                f"{records[0]} and {record} do not agree on the label of {len(odd)} samples, such as {odd[0]!r}",
                "one of them was trained on data read another way; average runs on the same data",
            )
    every = pd.concat(tables)
    every = every[~every.index.duplicated()].sort_index()
    splits = pd.DataFrame({n: table["split"].reindex(every.index) for n, table in enumerate(tables)})
    test, train = (splits == "test").all(axis=1), (splits == "train").any(axis=1)
    if not test.any():
        counted = "; ".join(
            f"{record.name} {(table['split'] == 'test').sum()}" for record, table in zip(records, tables, strict=True)
        )
        raise UserError(
            f"no sample was tested by all {len(records)} runs: {counted}",
            "average runs on the same data and splits; one on other data is compared by deepfake evaluate",
        )
    every["split"] = np.select([test, train], ["test", "train"], "val")
    tested = int((splits == "test").any(axis=1).sum())
    notes = []
    if tested > test.sum():
        notes.append(f"tested on the {int(test.sum())} samples that every run was tested on, of {tested}")
    return every.reset_index(), notes


def _roots(records: Sequence[RunRecord]) -> dict[str, Path]:
    roots: dict[str, Path] = {}
    for record in records:
        found = record.provenance().get("data", {}).get("roots", {}) if record.has(files.PROVENANCE) else {}
        roots = {**{name: Path(root) for name, root in found.items()}, **roots}
    return roots


def shared_values(records: Sequence[RunRecord], name: str, changes: Changes) -> dict[str, Any]:
    """The config of an ensemble: what its members share, and of the first one where data lies and how it is scored.

    Args:
        records: The members.
        name: The ensemble's.
        changes: What was typed of scoring and of where things are kept.
    """
    every = [record.config() for record in records]
    flat = [flatten(values) for values in every]
    first = every[0]
    same = {key: value for key, value in flat[0].items() if all(other.get(key, ...) == value for other in flat[1:])}
    kinds = {section for section, value in first.items() if isinstance(value, dict) and "_target_" in value}
    # A part of a group whose kind is not known belongs to nothing.
    differ = {section for section in kinds if f"{section}._target_" not in same}
    values: dict[str, Any] = {}
    apply_changes(values, {key: value for key, value in same.items() if key.partition(".")[0] not in differ})
    dataset = {key: value for key, value in first["dataset"].items() if key not in CROP_KEYS}
    # A mapping that is a value, such as the names of columns, is taken whole.
    values["dataset"] = {**values.get("dataset", {}), **dataset}
    values["evaluation"] = dict(first.get("evaluation", {}))
    threshold = {"trainer.threshold": flat[0]["trainer.threshold"]} if "trainer.threshold" in flat[0] else {}
    typed = changes.values
    typed["tracking"] = {**typed["tracking"], "experiment": typed["tracking"]["experiment"] or _experiment(first)}
    apply_changes(values, {**threshold, "resume": None, **typed, "name": name})
    return values


def _experiment(values: Mapping[str, Any]) -> str | None:
    tracking = values.get("tracking")
    return tracking.get("experiment") if isinstance(tracking, dict) else None


def make_ensemble(joined: Joined, name: str, changes: Changes, store: Store, console: Console) -> RunRecord:
    """Average what the members said of the samples that all were tested on, and keep it as a run.

    Args:
        joined: The members.
        name: The ensemble's.
        changes: What was typed of scoring and of where things are kept.
        store: Where the run is remembered.
        console: Told what is missing.

    Raises:
        UserError: A member kept no scores of its clips, where their average is asked for in another way.
    """
    values = shared_values(joined.records, name, changes)
    config = load_values(values)
    evaluated = _evaluate(joined, config)
    members = [_member(record, evaluated, config.evaluation) for record in joined.records]
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder = RunFolder(config.outputs / "runs" / f"{stamp}_{name}_{uuid.uuid4().hex[:6]}")
    tags = {
        "run_dir": str(folder.path),
        Path(files.ENSEMBLE).stem: ", ".join(one.run_id or one.folder for one in members),
    }
    try:
        with track(
            store,
            config.tracking.experiment or config.dataset.name,
            name,
            folder=folder.path,
            tags=tags,
            options=replace(config.tracking, system_metrics=False),
        ) as log:
            _keep(folder, joined, members, values, evaluated, log)
    except BaseException:
        # Half an ensemble is of no use to anybody, and made again in seconds.
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    record = replace(from_folder(folder.path), run_id=log.id or None)
    _keep_card(record, config, log, console)
    return record


def _evaluate(joined: Joined, config: RunConfig) -> Evaluated:
    options = config.evaluation
    val, test = (_scored(joined.records, options, split) for split in ("val", "test"))
    data = f"the val split of {config.dataset.name}"
    decision = fit_decision(val.samples, options, config.trainer.threshold, data)
    found = measure_splits(val, test, joined.manifest, decision, options)
    costs = [record.metrics() for record in joined.records]
    for names, total in ((_SUMMED, sum), (_LARGEST, max)):
        for key in names:
            if all(key in one for one in costs):
                found.found.values[key] = float(total(one[key] for one in costs))
    return found


def _scored(records: Sequence[RunRecord], options: EvaluationOptions, split: str) -> Scored:
    samples = shared_predictions(records, options, split)
    clips = pd.DataFrame({"sample_id": [], "split": [], "logit": np.empty(0), "member": np.empty(0, int)})
    if all(record.has(files.CLIPS) for record in records):
        clips = pd.concat([record.clips().assign(member=n) for n, record in enumerate(records)], ignore_index=True)
        clips = clips[(clips["split"] == split) & clips["sample_id"].isin(samples["sample_id"])]
    return Scored(samples, None, clips)


def _member(record: RunRecord, evaluated: Evaluated, options: EvaluationOptions) -> Member:
    """A member, with its own numbers on the samples that the ensemble is tested on."""
    samples = evaluated.predictions[evaluated.predictions["split"] == "test"]["sample_id"]
    own = pooled(record, options, "test").set_index("sample_id").loc[samples].reset_index()
    values = sample_metrics(own[own["status"] == "ok"]).values
    found = {name: values[name] for name in metric_names(headline=True) if name in values}
    return Member(record.name, record.run_id, str(record.places[0]), file_digest(record.weights()), found)


def _keep(
    folder: RunFolder,
    joined: Joined,
    members: Sequence[Member],
    values: Mapping[str, Any],
    evaluated: Evaluated,
    log: RunLog,
) -> None:
    """The ensemble's files, in its folder and among its artifacts."""
    text = plain_yaml(values)
    # Not a key of a config: what tells it from others in a comparison.
    folder.write_config(text, text, [f"ensemble=[{', '.join(one.name for one in members)}]"])
    folder.write_members({"format": FORMAT, "members": [vars(one) for one in members]})
    folder.write_manifest(joined.manifest)
    first = joined.records[0]
    made = first.provenance().get("data", {}) if first.has(files.PROVENANCE) else {}
    weights = {one.name: one.weights for one in members}
    told = provenance({}, joined.manifest, str(made.get("crops", "")), {}, "cpu", None)
    folder.write_provenance({**told, "weights": weights})
    warnings = _keep_audit(folder, joined)
    folder.write_calibration(evaluated.decision.to_dict())
    draw_run(
        folder.figures,
        history=[],
        predictions=evaluated.predictions[evaluated.predictions["split"] == "test"],
        monitor="",
        best_epoch=None,
        threshold=evaluated.decision.default,
    )
    shared = {key: value for key, value in flatten(values).items() if not is_environment_key(key)}
    log.params({"ensemble": ", ".join(one.name for one in members), **shared})
    log.dataset(joined.manifest)
    log.note(run_note(log.id or str(folder.path), evaluated.found.values, warnings, trained=False))
    keep_numbers(folder, evaluated, joined.notes, log)


def _keep_audit(folder: RunFolder, joined: Joined) -> list[str]:
    """What is wrong with the data, as the first member found it, where all had the same; returns its warnings."""
    first, *others = [set(record.manifest("split")["sample_id"]) for record in joined.records]
    record = joined.records[0]
    if any(other != first for other in others) or not record.has(files.AUDIT):
        return []
    found = record.audit()
    write_json(folder.path / files.AUDIT, found)
    if record.has(files.AUDIT_TEXT):
        shutil.copyfile(record.file(files.AUDIT_TEXT), folder.path / files.AUDIT_TEXT)
    return list(found.get("warnings", []))


def _keep_card(record: RunRecord, config: RunConfig, log: RunLog, console: Console) -> None:
    try:
        log.files([page.write_page(record.places[0], run_card(record, open_crops(record, config.cache)))])
    except Exception as error:
        console.warn(f"the ensemble's report card could not be written: {first_line(error)}")
