"""What a linear probe makes of a run's backbone before training: how much of the set was solved when it began.

Computed once for a data set and a backbone, and kept in the cache: every run of a sweep asks for the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from deepfake.config import RunConfig
from deepfake.data.audit import Audit
from deepfake.data.clips import ClipSet, ClipSource
from deepfake.data.manifest import Manifest
from deepfake.metrics import Interval, class_counts
from deepfake.runs.build import Cache, Data, Run, first_detector, open_data
from deepfake.runs.console import Console
from deepfake.runs.solved import state_solved
from deepfake.tracking.run_folder import write_json
from deepfake.tracking.store import locate
from deepfake.training.baselines import Baseline, baseline, linear
from deepfake.training.evaluation import Evaluation, Units, resampling_units
from deepfake.training.intervals import auc_difference, auc_interval, too_few
from deepfake.training.options import switched

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.models.detector import Detector

#: The metrics, below the split's name.
PROBE, GAIN = "probe_roc_auc", "gain_over_probe"
#: Clips to read, by kind of device, up to which it is cheap where no features of them are stored.
CHEAP = {"cpu": 2_000}
CHEAP_ELSEWHERE = 20_000
_PARTS = ("train", "test")
_VERSION = 1  # another number computes all of them anew


class Probed(Protocol):
    """What a probe is fitted on: a run before its first step, or as much of one."""

    config: RunConfig
    console: Console
    fabric: Fabric
    data: Data
    detector: Detector


@dataclass
class _Prepared:
    """As much of a run as a probe asks for."""

    config: RunConfig
    console: Console
    fabric: Fabric
    data: Data
    detector: Detector


def probed_audit(config: RunConfig, manifest: Manifest, console: Console) -> Audit:
    """The audit of prepared data with the probe of the configured backbone, which is fitted whatever it costs.

    Raises:
        UserError: The backbone or its weights cannot be had.
    """
    from deepfake.training.runtime import create_fabric

    asked = replace(config, evaluation=replace(config.evaluation, probe="true"))
    detector = first_detector(config, locate(config.tracking, config.outputs), Cache())
    data = open_data(config, manifest, console)
    prepared = _Prepared(asked, console, create_fabric(config.trainer), data, detector)
    probe(prepared)
    return prepared.data.audit


def probe(run: Probed, used: Callable[[str], object] = lambda key: None) -> Baseline | None:
    """Fit the probe, or read what was kept of it, and say it in the data's audit; None where it is not wanted.

    Args:
        run: Before its first step; what it reads is ready. Its audit is exchanged.
        used: Told the key under which it is kept.
    """
    stored = run.config.features.cached and _holds_features(run)
    clips = {name: run.data.splits[name] for name in _PARTS}
    if not switched(run.config.evaluation.probe, _is_cheap(run, clips, stored)):
        return None
    key = _key(run, clips)
    used(key)
    file = run.config.cache / "probes" / f"{key}.json"
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


def _is_cheap(run: Probed, clips: Mapping[str, ClipSource], stored: bool) -> bool:
    backbone = run.config.backbone
    if run.config.trainer.init_from is not None or not (backbone.pretrained or backbone.weights):
        return False
    few = CHEAP.get(run.fabric.device.type, CHEAP_ELSEWHERE)
    return stored or sum(map(len, clips.values())) <= few


def _holds_features(run: Probed) -> bool:
    from deepfake.training.features.extract import FeatureSet

    return isinstance(run.data.splits["train"], FeatureSet)


def _key(run: Probed, clips: Mapping[str, ClipSource]) -> str:
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


def _frozen(run: Probed) -> Mapping[str, ClipSource] | None:
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


def _fitted(run: Probed, features: Mapping[str, ClipSource] | None) -> Baseline | None:
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
