"""Folders of finished runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from deepfake.data.manifest import Manifest, make_rows
from deepfake.tracking.run_folder import RunFolder
from deepfake.tracking.run_record import RunRecord, from_folder

#: Test samples, half of them fake.
N = 40


def finished_run(
    place: Path,
    name: str,
    skill: float,
    *overrides: str,
    scored: range = range(N),
    flip: int | None = None,
    device: str = "cpu",
    group: int = 2,
    folder: str | None = None,
) -> RunRecord:
    """A finished run's folder below ``place``: ``skill`` from 0 (chance) to 1, scored on the samples of ``scored``."""
    run = RunFolder(place / (folder or name))
    labels = np.arange(N) % 2
    ids = [f"d/{i:02d}" for i in range(N)]
    shown = {"path": "p", "kind": "image", "method": "m", "dataset": "d", "split": "test"}
    rows = [
        {**shown, "sample_id": ids[i], "path": f"{i}", "label": int(labels[i]), "groups": (str(i // group),)}
        for i in range(N)
    ]
    noise = np.random.default_rng(len(name)).random(N)
    score = np.clip(skill * labels + (1 - skill) * noise, 0, 1)
    if flip is not None:
        labels[flip] = 1 - labels[flip]
    table = pd.DataFrame({"sample_id": ids, "label": labels, "split": "test", "score": score, "status": "ok"})
    table.loc[[i for i in range(N) if i not in scored], ["score", "status"]] = [np.nan, "no face"]
    config = f"name: {name}\ntrainer:\n  threshold: 0.5\nhead:\n  hidden: {len(name)}\npaths:\n  outputs: {name}\n"
    run.write_config(config, config, overrides)
    run.write_manifest(Manifest(make_rows(rows), {"d": place}))
    run.write_provenance({"format": 1, "machine": {"device": device}, "environment": {"WORLD_SIZE": "2"}})
    run.write_predictions(table)
    run.write_history([{"epoch": 0, "train/loss": 1.0, "val/roc_auc": skill}])
    run.write_metrics({"metrics": {"train_seconds": 1800.0, "epochs_run": 1.0, "test/roc_auc": 0.123}})
    return from_folder(run.path)
