"""What a run that is to be run again would meet here: this code, these packages, this machine, these files.

Finds it out without training; a model or a device that cannot be had is told, not an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from deepfake.commands.console import Console
from deepfake.commands.data import read_manifest
from deepfake.commands.keeping import provenance
from deepfake.commands.restore import Restored
from deepfake.commands.shelf import Shelf
from deepfake.commands.start import first_detector
from deepfake.config import RunConfig
from deepfake.data.crops import cut_settings
from deepfake.data.digests import digest_files
from deepfake.data.manifest import Manifest
from deepfake.data.part import read_records
from deepfake.data.stores import store_folder
from deepfake.errors import UserError
from deepfake.models.detector import Detector
from deepfake.tracking.changes import DataChanges, compare_manifests, compare_worlds
from deepfake.tracking.record import RunRecord
from deepfake.tracking.store import locate

_CODE = ("git commit", "uncommitted changes")


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


def look_around(record: RunRecord, restored: Restored, console: Console) -> Surroundings:
    """Compare a run's surroundings with those it would have now.

    Raises:
        DataError: The data set is not where the config says.
    """
    then = record.provenance()
    config = restored.config
    device, detector, notes = _equipment(config)
    manifest, folder = _files(config, record, console)
    now = provenance(config, manifest, folder, restored.context.choices, device, detector)
    differences, same = compare_worlds(then, now)
    code = own_code(then.get("git") or {}) if differences["what"].isin(_CODE).any() else ""
    roots = (then.get("data", {}).get("roots", {}), now["data"]["roots"])  # type: ignore[index]
    return Surroundings(differences, same, compare_manifests(record.manifest(), manifest.table, roots), notes, code)


def own_code(git: Mapping[str, Any]) -> str:
    """How to get the code that a run was made with, from what was noted of it."""
    if not git.get("commit"):
        return ""
    diff = ", then git apply what its provenance.json holds as git.diff" if git.get("diff") else ""
    return f"git checkout {git['commit']}{diff}"


def _equipment(config: RunConfig) -> tuple[str, Detector | None, list[str]]:
    """The device and the untrained detector, as far as they can be had, and why not."""
    from deepfake.training.setup import create_fabric, seed_everything

    device, detector, notes = "none", None, []
    try:
        device = str(create_fabric(config.trainer).device)
    except UserError as error:
        notes.append(f"{error.message}; {error.hint}")
    seed_everything(config.seed, config.trainer.deterministic)
    try:
        detector = first_detector(config, locate(config.tracking, config.outputs), Shelf())
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
