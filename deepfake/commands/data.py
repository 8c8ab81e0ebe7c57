"""From a data set's options to clip sets ready to train on: manifest, crops, splits.

Wires the data room; every command that touches data comes through here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import pandas as pd

from deepfake.commands.console import Console
from deepfake.config import RunConfig
from deepfake.data.audit import VERSION, Audit, audit_dataset
from deepfake.data.clips import ClipSet
from deepfake.data.crops import prepare_crops
from deepfake.data.manifest import SPLITS, Manifest
from deepfake.data.read import read_dataset
from deepfake.data.store import CropStore
from deepfake.tracking.folder import write_json
from deepfake.training.source import ClipSource

#: In a run's folder: the samples, of any split, that could not be used.
FAILURES = "failures.csv"
_AUDITED = ("sample_id", "dataset", "label", "method", "groups", "split")


@dataclass
class Data:
    """What a run reads: which samples, their crops, what is wrong with them, and the clips of each split."""

    manifest: Manifest
    store: CropStore
    audit: Audit
    splits: dict[str, ClipSource]


def failures(store: CropStore) -> pd.DataFrame:
    """The samples that gave no clips: status and reason by sample id."""
    return store.samples.loc[store.samples["status"] != "ok", ["status", "reason"]]


def described(manifest: Manifest) -> str:
    """One line: how many samples of which class lie in which split."""
    parts = []
    for name in SPLITS:
        table = manifest.split(name)
        fake = int((table["label"] == 1).sum())
        parts.append(f"{name} {len(table) - fake} real + {fake} fake")
    return ", ".join(parts)


def read_manifest(config: RunConfig, console: Console) -> Manifest:
    """The manifest of the configured data set; what was noticed on the way is told."""
    manifest = read_dataset(config.dataset, config.cache, config.demo)
    for note in manifest.notes:
        console.say(f"note: {note}")
    return manifest


def prepare(config: RunConfig, manifest: Manifest, console: Console, shard: tuple[int, int] = (0, 1)) -> CropStore:
    """Prepare the crops that are missing, with a progress bar; see :func:`deepfake.data.crops.prepare_crops`.

    Temporal heads get consecutive frames, the others evenly spaced ones: two different stores.
    """
    with console.progress() as bar:
        return prepare_crops(
            manifest,
            config.dataset,
            config.head.temporal,
            config.cache,
            workers=config.dataset.workers,
            progress=bar,
            shard=shard,
            say=console.say,
        )


def audit(manifest: Manifest, store: CropStore) -> Audit:
    """What is wrong with the data set; found once for the same samples in the same splits, and kept in the store."""
    samples = store.samples.reindex(manifest.table["sample_id"])
    known = hashlib.sha256(f"{VERSION} {manifest.official}".encode())
    for table in (manifest.table[[*_AUDITED]], samples):
        known.update(pd.util.hash_pandas_object(table.astype(str)).to_numpy().tobytes())
    kept = store.path / "audits" / f"{known.hexdigest()[:20]}.json"
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        write_json(kept, audit_dataset(manifest, samples.dropna(subset="status")).as_dict())
    return Audit.from_dict(json.loads(kept.read_text(encoding="utf-8")))


def open_data(config: RunConfig, manifest: Manifest, console: Console) -> Data:
    """Prepare the crops that are missing and open them as clips; samples that cannot be used are named."""
    store = prepare(config, manifest, console)
    failed = failures(store)
    if not failed.empty:
        named = "; ".join(f"{row.Index}: {row.status}, {row.reason}" for row in failed.head(5).itertuples())
        console.warn(f"{len(failed)} of {len(store.samples)} samples cannot be used ({named}): see {FAILURES}")
    status = store.samples["status"].rename("status")
    splits: dict[str, ClipSource] = {
        name: ClipSet(
            store,
            manifest.split(name).join(status, on="sample_id"),
            augment=config.augment if name == "train" else None,
            seed=config.seed,
        )
        for name in SPLITS
    }
    return Data(manifest, store, audit(manifest, store), splits)
