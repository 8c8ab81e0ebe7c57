"""Folders of finished runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from deepfake.data.crop_records import StoreWriter
from deepfake.data.cropping import FRAME, Crops
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.media import MediaInfo
from deepfake.metrics import METRICS, sample_metrics
from deepfake.tracking.run_folder import AUDIT, RunFolder, write_json
from deepfake.tracking.run_record import RunRecord, from_folder

#: Test samples, half of them fake.
N = 40
#: The store of the crops that :func:`full_run` read.
KEY = "0123456789abcdef0123"


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


def full_run(
    place: Path,
    *,
    labels: list[int] | None = None,
    methods: list[str] | None = None,
    names: list[str] | None = None,
    split: str = "test",
    intervals: bool = True,
    config: str = "",
) -> RunRecord:
    """A finished run's folder: half of its samples fake, unless said otherwise."""
    folder = RunFolder(place / "run")
    truth = np.array([0, 1] * 10 if labels is None else labels)
    ids = names or [f"d/{number:02d}" for number in range(len(truth))]
    kinds = methods or ["Blend" if label else "real" for label in truth]
    score = np.clip(0.2 + 0.5 * truth + np.linspace(-0.2, 0.25, len(truth)), 0, 1)
    table = pd.DataFrame(
        {"sample_id": ids, "label": truth, "method": kinds, "split": split, "score": score, "status": "ok"}
    )
    shown = {"kind": "image", "dataset": "d", "split": split}
    rows = [
        {**shown, "sample_id": name, "path": f"{name}.png", "label": int(label), "method": kind, "groups": (name,)}
        for name, label, kind in zip(ids, truth, kinds, strict=True)
    ]
    text = (
        "name: demo run\nbackbone:\n  name: tiny\nhead:\n  _target_: deepfake.models.options.GRU\ndataset:\n  name: d\n"
        "evaluation:\n  level: 0.95\ntrainer:\n  monitor: val/roc_auc\n" + config
    )
    folder.write_config(text, text, ["model=cnn_gru", "tracking.uri=http://me:secret@host"])
    folder.write_manifest(Manifest(make_rows(rows), {"d": place / "data"}))
    folder.write_predictions(table)
    folder.write_history([{"epoch": float(e), "train/loss": 1 / (1 + e), "val/roc_auc": 0.5 + e / 9} for e in range(3)])
    folder.write_provenance(
        {"format": 1, "data": {"crops": KEY, "roots": {"d": str(place / "data")}}, "machine": {"device": "cpu"}}
    )
    decision = {"format": 2, "threshold": 0.4, "method": "youden", "default_threshold": 0.5, "calibrator": None}
    folder.write_calibration({**decision, "pooling": "mean", "fitted_on": {}, "unavailable": {}})
    found = sample_metrics(table)
    values = {f"{split}/{name}": value for name, value in found.values.items()}
    ends = {f"{split}/roc_auc_low": 0.7, f"{split}/roc_auc_high": 0.99} if intervals else {}
    costs = {"best_epoch": 3.0, "train_seconds": 12.5, "parameters": 9e5, "latency_ms": 3.0, "peak_memory_bytes": 2e9}
    called = score >= 0.5
    counts = {
        f"{a}_as_{b}": float(((truth == i) & (called == j)).sum())
        for i, a in enumerate(("real", "fake"))
        for j, b in enumerate(("real", "fake"))
    }
    why = {f"{split}/{name}": reason for name, reason in found.unavailable.items()}
    if not intervals:
        why |= {f"{split}/{name}_low": "only 3 groups of real samples" for name in METRICS}
    folder.write_metrics(
        {
            "metrics": {**values, **ends, **costs},
            "unavailable": why,
            "intervals": {f"{split}/roc_auc": "bootstrap over 20 groups"} if intervals else {},
            "confusion": {f"{split}/default": {"threshold": 0.5, **counts}},
            "notes": [],
        }
    )
    write_json(folder.path / AUDIT, {"warnings": ["bitrate tells the class"]})
    return from_folder(folder.path)


def keep_crops(cache: Path, names: list[str]) -> None:
    """A store with a face for each sample."""
    folder = cache / "crops" / KEY
    folder.mkdir(parents=True)
    writer = StoreWriter(folder)
    for place, name in enumerate(names):
        pixels = np.full((1, 2, 128, 128, 3), place * 10, np.uint8)
        media = MediaInfo(128, 128, 2, 25.0, 0.1, "png", 0, "rgb24", 0)
        crops = Crops(pixels, np.array([2]), np.zeros((1, 2), FRAME), media, (), np.zeros((16, 16), np.uint8))
        writer.append({"sample_id": name, "status": "ok"}, crops)
    writer.close()
