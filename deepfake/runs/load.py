"""A run of the past made ready for use: its detector with its weights, its threshold and calibration, a device.

An ensemble is several of them, read as one; see :mod:`deepfake.runs.ensemble`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from deepfake.config import RunConfig, load_config, load_values
from deepfake.data.clips import ClipSource
from deepfake.errors import UserError
from deepfake.progress import Progress
from deepfake.runs.build import load_detector
from deepfake.runs.console import Console
from deepfake.runs.saved_config import Changes, read_changes, with_changes
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_record import Member, RunRecord
from deepfake.tracking.search import find_run
from deepfake.tracking.store import Store, locate
from deepfake.training.decision import Decision, load_decision, pooling_name
from deepfake.training.domain import Domain, load_domain
from deepfake.training.fitting import fit_decision
from deepfake.training.options import EvaluationOptions
from deepfake.training.pooling import pool_faces
from deepfake.training.scoring import Scored, average_samples, score

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.models.detector import Detector

_DEFAULT_BATCH = 32
#: With fewer validation samples of a class, a threshold fitted on them is mostly chance.
_FEW = 10


@dataclass
class Trained:
    """A detector that can be used, and how it is to be read.

    Attributes:
        record: Its run.
        config: The run's config, with what was typed laid over it.
        changes: What was typed.
        store: Where the run is remembered.
        detector: With the best epoch's weights, on the fabric's device, in evaluation mode.
        fabric: Where it works.
        decision: Threshold and calibrator.
        alone: Whether no other detector works beside it.
        domain: What it was trained on; None where that was not kept.
    """

    record: RunRecord
    config: RunConfig
    changes: Changes
    store: Store
    detector: Detector
    fabric: Fabric
    decision: Decision
    alone: bool = True
    domain: Domain | None = None

    @property
    def members(self) -> Sequence[Trained]:
        """The detectors whose scores are averaged: this one."""
        return (self,)

    @property
    def batch_size(self) -> int:
        """Clips at once."""
        asked = self.config.trainer.batch_size
        return asked if isinstance(asked, int) else _DEFAULT_BATCH

    def rest(self) -> None:
        """Leave the device to the next detector, where there is one."""
        if not self.alone:
            self.detector.to("cpu")

    def score(self, clips: ClipSource, split: str, progress: Progress | None = None) -> Scored:
        """Score clips as the run's own were; see :func:`deepfake.training.scoring.score`."""
        return score(
            self.detector,
            clips,
            fabric=self.fabric,
            batch_size=self.batch_size,
            split=split,
            progress=progress,
            options=self.config.evaluation,
        )


@dataclass
class Ensemble:
    """Several detectors whose scores are averaged, and how the average is to be read.

    Attributes:
        record: The ensemble's run.
        config: What its members share, with what was typed laid over it.
        changes: What was typed.
        store: Where the run is remembered.
        decision: Threshold and calibrator.
        members: Each with its own config: it has crops of its own kind. Only one that scores is on the device.
    """

    record: RunRecord
    config: RunConfig
    changes: Changes
    store: Store
    decision: Decision
    members: Sequence[Trained]


def find_trained(reference: str, overrides: Sequence[str]) -> tuple[RunRecord, Changes, Store]:
    """The run that is meant, once it is sure that it can be used; see :func:`open_run`."""
    changes = read_changes(overrides)
    store = locate(load_config(changes.config).tracking, changes.outputs)
    record = find_run(reference, store, changes.outputs).require_finished()
    if not record.is_ensemble:
        record.weights()
    if record.has(files.PROVENANCE):
        # A run that a newer version wrote is refused here rather than misread later.
        record.provenance()
    return record, changes, store


def open_run(reference: str, overrides: Sequence[str], console: Console) -> Trained | Ensemble:
    """Find a run, or an ensemble of runs, and load it.

    Args:
        reference: As :func:`deepfake.tracking.search.find_run` takes it.
        overrides: Of data, scoring and the machine; see :mod:`deepfake.runs.saved_config`.
        console: Told what is not as it was.

    Raises:
        UserError: No such run, unfinished, its weights deleted or of another model, or an override that would
            change the model; a member of an ensemble is gone, or has other weights than it had.
    """
    record, changes, store = find_trained(reference, overrides)
    config = with_changes(record, changes)
    found: Trained | Ensemble
    if record.is_ensemble:
        found = _open_ensemble(record, config, changes, store)
    else:
        decision = read_decision(record, config.evaluation, config.trainer.threshold)
        found = _load(record, config, changes, store, decision)
        found.detector.to(found.fabric.device)
    for name, reason in found.decision.unavailable.items():
        if config.evaluation.calibration != "none" or name != "calibrator":
            console.warn(f"no {name} was fitted: {reason}")
    fitted_on = found.decision.fitted_on
    few = min(fitted_on.get("real", _FEW), fitted_on.get("fake", _FEW))
    if 0 < few < _FEW:
        console.warn(f"threshold and calibration were fitted on a validation part with {few} of one class")
    return found


def _load(
    record: RunRecord, config: RunConfig, changes: Changes, store: Store, decision: Decision, alone: bool = True
) -> Trained:
    from deepfake.training.runtime import create_fabric, seed_everything

    fabric = create_fabric(config.trainer)
    seed_everything(config.seed, config.trainer.deterministic)
    detector = load_detector(config, record.weights())
    if config.trainer.channels_last:
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    domain = load_domain(record.domain()) if record.has(files.DOMAIN) else None
    return Trained(record, config, changes, store, detector.eval(), fabric, decision, alone, domain)


def _open_ensemble(record: RunRecord, config: RunConfig, changes: Changes, store: Store) -> Ensemble:
    # Every member's samples are scored as the ensemble's own were.
    pooling: Any = {name: getattr(config.evaluation, name) for name in ("clips", "top_k", "faces")}
    found = [find_member(record, one, store, changes.outputs) for one in record.members()]
    configs = [with_changes(one, changes) for one in found]
    configs = [replace(own, evaluation=replace(own.evaluation, **pooling)) for own in configs]
    decision = read_decision(record, config.evaluation, config.trainer.threshold, found)
    members = [_load(one, own, changes, store, decision, alone=False) for one, own in zip(found, configs, strict=True)]
    return Ensemble(record, config, changes, store, decision, members)


def find_member(record: RunRecord, member: Member, store: Store, outputs: Path) -> RunRecord:
    """One of the runs that an ensemble is made of: by its id, where its folder lay, or beside the ensemble's own.

    Raises:
        UserError: It is in none of these places, or has other weights by now.
    """
    beside = [str(place.parent / Path(member.folder).name) for place in record.places]
    for reference in (member.run_id, member.folder, *beside):
        try:
            found = find_run(reference, store, outputs) if reference else None
            if found is None or not found.has(files.WEIGHTS):
                continue
        except UserError:
            continue
        if file_digest(found.weights()) != member.weights:
            raise UserError(
                f"{member.name!r}, a member of the ensemble {record.name!r}, has other weights by now: {found}",
                "restore them, or make the ensemble anew",
            )
        return found
    told = f"looked for {member.run_id} in {store.uri} and for {member.folder}"
    raise UserError(
        f"the weights of {member.name!r}, a member of the ensemble {record.name!r}, are gone: {told}",
        "restore its folder, or say where it is known: tracking.uri=…",
    )


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_decision(
    record: RunRecord, options: EvaluationOptions, default: float, members: Sequence[RunRecord] = ()
) -> Decision:
    """What the run fitted on validation; fitted anew where it was asked for otherwise, or by a run that fitted none.

    Args:
        record: The run.
        options: How it is to be fitted.
        default: The threshold that was set.
        members: The runs that it is an ensemble of.
    """
    if record.has(files.CALIBRATION):
        saved = load_decision(record.calibration())
        if _same_fit(load_values(record.config()).evaluation, options) and saved.default == default:
            return saved
    try:
        val = shared_predictions(members, options, "val") if members else pooled(record, options, "val")
    except UserError as error:
        missing = {"threshold": error.message, "calibrator": error.message}
        return Decision(default, None, options.threshold, None, pooling_name(options), {}, missing)
    return fit_decision(val, options, default, f"the val split of {record.config()['dataset']['name']}")


def shared_predictions(members: Sequence[RunRecord], options: EvaluationOptions, split: str) -> pd.DataFrame:
    """The samples that lie in a split of every member, with the average of their scores.

    Raises:
        UserError: As :func:`pooled`.
    """
    tables = [pooled(one, options, split) for one in members]
    common = tables[0]["sample_id"]
    for table in tables[1:]:
        common = common[common.isin(table["sample_id"])]
    return average_samples([table.set_index("sample_id").loc[common].reset_index() for table in tables])


def pooled(record: RunRecord, options: EvaluationOptions, split: str) -> pd.DataFrame:
    """The run's predictions of a split, each video's score made of its clips' as the options say.

    Raises:
        UserError: They are gone, or clips' scores are asked for that an older run did not keep.
    """
    predictions = record.predictions("split", "status", "label")
    part = predictions[predictions["split"] == split].reset_index(drop=True)
    if not record.has(files.CLIPS):
        if options.clips == "mean":
            return part
        raise UserError(
            f"run {record} kept no clips' scores to make evaluation.clips={options.clips} of", "leave it at mean"
        )
    clips = record.clips()
    clips = clips[clips["split"] == split]
    rows = pd.Index(part["sample_id"]).get_indexer(clips["sample_id"])
    faces = clips["face"].to_numpy() if "face" in clips else None
    scores = pool_faces(rows, faces, clips["logit"].to_numpy(), len(part), options)
    return part.assign(score=scores)


def _same_fit(then: EvaluationOptions, now: EvaluationOptions) -> bool:
    same = all(getattr(then, name) == getattr(now, name) for name in ("clips", "faces", "threshold", "calibration"))
    return same and ("topk" not in (now.clips, now.faces) or then.top_k == now.top_k)
