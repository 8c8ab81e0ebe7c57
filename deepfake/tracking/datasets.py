"""A manifest as MLflow's data set inputs: name, digest, place and counts. Opens no file of the data."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pandas as pd

from deepfake.data.manifest import SPLITS, Manifest

if TYPE_CHECKING:
    from mlflow.entities import Dataset

_DIGEST_LENGTH = 32


def counts(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Samples by split and class: ``{"train": {"real": 10, "fake": 12}, ...}``."""
    found = {}
    for split in SPLITS:
        labels = table.loc[table["split"] == split, "label"]
        found[split] = {"real": int((labels == 0).sum()), "fake": int((labels == 1).sum())}
    return found


def dataset_entities(manifest: Manifest) -> list[Dataset]:
    """One MLflow data set for each data set of the manifest; the digest is of identities, labels, splits and sizes."""
    from mlflow.entities import Dataset

    entities = []
    for name, table in manifest.table.groupby("dataset", sort=True):
        digest = manifest.digest()
        if len(table) < len(manifest):
            digest = hashlib.sha256(table[["sample_id", "label", "split"]].to_csv(index=False).encode()).hexdigest()
        profile = {"samples": len(table), **counts(table), "methods": int(table["method"].nunique())}
        entities.append(
            Dataset(
                name=str(name)[:500],
                digest=digest[:_DIGEST_LENGTH],
                source_type="local",
                source=json.dumps({"uri": str(manifest.roots.get(str(name), ""))}),
                schema=json.dumps({"columns": list(map(str, table.columns))}),
                profile=json.dumps(profile),
            )
        )
    return entities
