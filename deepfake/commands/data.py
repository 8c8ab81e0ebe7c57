"""From a data set's options to clip sets ready to train on: manifest, crops, splits.

Wires the data room; every command that touches data comes through here.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepfake.commands.console import Console
from deepfake.config import RunConfig
from deepfake.data.clips import ClipSet
from deepfake.data.crops import prepare_crops
from deepfake.data.manifest import SPLITS, Manifest
from deepfake.data.read import read_dataset
from deepfake.data.store import CropStore


@dataclass
class Data:
    """What a run reads: which samples, their crops, and a clip set for each split."""

    manifest: Manifest
    store: CropStore
    splits: dict[str, ClipSet]


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


def open_data(config: RunConfig, manifest: Manifest, console: Console) -> Data:
    """Prepare the crops that are missing and open them as clips.

    Temporal heads get consecutive frames, the others evenly spaced ones: two different stores.
    """
    with console.progress() as bar:
        store = prepare_crops(
            manifest,
            config.dataset,
            config.head.temporal,
            config.cache,
            workers=config.dataset.workers,
            progress=bar,
            say=console.say,
        )
    failed = store.samples[store.samples["status"] != "ok"]
    if not failed.empty:
        counts = failed["status"].value_counts()
        named = ", ".join(f"{count} {status}" for status, count in counts.items())
        console.warn(f"{len(failed)} of {len(store.samples)} samples cannot be used ({named}): see predictions.parquet")
    status = store.samples["status"].rename("status")
    splits = {
        name: ClipSet(
            store,
            manifest.split(name).join(status, on="sample_id"),
            augment=config.augment if name == "train" else None,
            seed=config.seed,
        )
        for name in SPLITS
    }
    return Data(manifest, store, splits)
