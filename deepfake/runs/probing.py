"""What a linear probe makes of a run's backbone before training: how much of the set was solved when it began.

Computed once for a data set and a backbone, and kept in the cache: every run of a sweep asks for the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepfake.data.clips import ClipSet, ClipSource
from deepfake.metrics import Interval, class_counts
from deepfake.runs.build import Run
from deepfake.runs.solved import state_solved
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_folder import write_json, write_text
from deepfake.training.baselines import Baseline, baseline, linear
from deepfake.training.evaluation import Evaluation, Units, resampling_units
from deepfake.training.intervals import auc_difference, auc_interval, too_few
from deepfake.training.options import switched

if TYPE_CHECKING:
    from deepfake.models.detector import Detector

#: The metrics, below the split's name.
PROBE, GAIN = "probe_roc_auc", "gain_over_probe"
#: Clips to read, by kind of device, up to which it is cheap where no features of them are stored.
CHEAP = {"cpu": 2_000}
CHEAP_ELSEWHERE = 20_000
_PARTS = ("train", "test")
_VERSION = 1  # another number computes all of them anew


def probe(run: Run) -> Baseline | None:
    """Fit the probe, or read what was kept of it, and say it in the run's audit; None where it is not wanted.

    Args:
        run: Before its first step; what it reads is ready.
    """
    stored = run.config.features.cached and _holds_features(run)
    clips = {name: run.data.splits[name] for name in _PARTS}
    if not switched(run.config.evaluation.probe, _is_cheap(run, clips, stored)):
        return None
    file = run.config.cache / "probes" / f"{_key(run, clips)}.json"
    found = _kept(file)
    if found is None:
        found = _fitted(run, clips if stored else _frozen(run))
        if found is None:
            return None
        file.parent.mkdir(parents=True, exist_ok=True)
        scores = {} if found.scores is None else found.scores.to_dict()
        write_json(file, {**asdict(found), "scores": scores})
    # A sweep's runs share their data's audit, and not their backbones.
    run.data = replace(run.data, audit=deepcopy(run.data.audit))
    state_solved(run.data.audit, {"probe": found})
    write_text(run.folder.path / files.AUDIT_TEXT, run.data.audit.text())
    write_json(run.folder.path / files.AUDIT, run.data.audit.as_dict())
    return found


def add_gain(found: Evaluation, probed: Baseline | None, run: Run, predictions: pd.DataFrame, level: float) -> None:
    """What the test part's ROC-AUC is above the probe's, on the samples that both have a score for.

    Args:
        found: Gets both metrics by ``test/…``, with their ends, or the reason why there are none.
        probed: The probe; None adds nothing.
        run: Knows groups.
        predictions: Of the run.
        level: The intervals' confidence.
    """
    if probed is None:
        return
    names = [f"test/{name}" for name in (PROBE, GAIN)]
    scores = pd.Series(dtype=float) if probed.scores is None else probed.scores
    tested = predictions[(predictions["split"] == "test") & (predictions["status"] == "ok")]
    both = tested[tested["sample_id"].isin(scores.index)].reset_index(drop=True)
    if min(class_counts(both["label"]).values()) < 2:
        reason = probed.reason or "fewer than two test samples of a class have a score of the run and of the probe"
        found.unavailable |= dict.fromkeys(names, reason)
        return
    groups = run.data.manifest.table.set_index("sample_id")["groups"].loc[both["sample_id"]].reset_index(drop=True)
    labels = both["label"].to_numpy(np.int64)
    units = resampling_units(groups, labels)
    own, theirs = both["score"].to_numpy(np.float64), scores.loc[both["sample_id"]].to_numpy(np.float64)
    intervals = (
        auc_interval(labels, theirs, level, units.codes),
        auc_difference(labels, own, theirs, level, units.codes),
    )
    _add(found, dict(zip(names, intervals, strict=True)), labels, units)


def _add(found: Evaluation, intervals: Mapping[str, Interval], labels: np.ndarray, units: Units) -> None:
    reason = too_few(labels, units.codes, units.name)
    for name, interval in intervals.items():
        found.values[name] = interval.value
        if reason:
            found.unavailable[f"{name}_low"] = reason
            continue
        found.values |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        found.intervals[name] = f"DeLong over {len(units)} {units.name}"


def _is_cheap(run: Run, clips: Mapping[str, ClipSource], stored: bool) -> bool:
    backbone = run.config.backbone
    if run.config.trainer.init_from is not None or not (backbone.pretrained or backbone.weights):
        return False
    few = CHEAP.get(run.fabric.device.type, CHEAP_ELSEWHERE)
    return stored or sum(map(len, clips.values())) <= few


def _holds_features(run: Run) -> bool:
    from deepfake.training.features.extract import FeatureSet

    return isinstance(run.data.splits["train"], FeatureSet)


def _key(run: Run, clips: Mapping[str, ClipSource]) -> str:
    """A digest of all that the probe depends on: samples, what was cut of them, and the backbone as it is now."""
    from deepfake.training.checkpoint import weights_digest

    table, contents = run.data.manifest.table, run.data.store.contents
    known = zip(table["sample_id"], table["label"].tolist(), table["groups"], strict=True)
    facts = {name: [contents.get(name, ""), label, *groups] for name, label, groups in known}
    rows = {name: [[sample, *facts[sample]] for sample in one.table["sample_id"]] for name, one in clips.items()}
    read = [run.config.backbone.name, weights_digest(run.detector.backbone), run.detector.reads]
    views = run.config.features.views
    changed = [views, asdict(run.config.augment)] if views is not None else []
    text = json.dumps([_VERSION, rows, read, changed], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def _frozen(run: Run) -> Mapping[str, ClipSource] | None:
    """Features of the parts by the backbone as it is now; None where there is no room for them."""
    from deepfake.training.features.cache import FeatureCache
    from deepfake.training.features.probe import frozen_copy

    data, config = run.data, run.config
    clips = {name: ClipSet(data.store, data.splits[name].table) for name in _PARTS}
    detector: Detector = frozen_copy(run.detector)
    with run.console.progress() as bar:
        cache = FeatureCache(config.cache / "features", config.backbone.name, run.fabric, _nothing, bar)
        read = cache.read(detector, clips, data.store.contents, seed=config.seed, trained=())
    return None if read is None else read[1]


def _nothing(line: str) -> None:
    """What is told of features that the user did not ask for."""


def _fitted(run: Run, features: Mapping[str, ClipSource] | None) -> Baseline | None:
    from deepfake.training.features.probe import sample_vectors

    if features is None:
        run.console.warn("no probe of the backbone: there is no room for its features")
        return None
    vectors = np.concatenate([sample_vectors(one) for one in features.values() if len(one)] or [np.zeros((0, 1))])
    known = [one.table[["sample_id", "label"]].assign(split=name) for name, one in features.items() if len(one)]
    if not known:
        return Baseline(reason="no clips")
    samples = pd.concat(known, ignore_index=True)
    groups = run.data.manifest.table.set_index("sample_id")["groups"]
    samples["groups"] = groups.loc[samples["sample_id"]].to_numpy()
    whole = np.isfinite(vectors).all(1)
    return baseline(vectors[whole], samples[whole], linear, run.config.evaluation.level)


def _kept(file: Path) -> Baseline | None:
    """A probe of before; None where there is none, or it cannot be read."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        area = read["roc_auc"]
        ends = None if area is None else Interval(*(_number(area[name]) for name in ("value", "low", "high")))
        return Baseline(ends, read["how"], read["reason"], pd.Series(read["scores"], dtype=float))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
