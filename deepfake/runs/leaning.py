"""Whether a run leans on something else than the face, as one plain line each; silent where it does not.

Looks at a few test samples, cropped at random and compressed, once the run's numbers are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepfake.data.clips import ClipSet, ClipSource
from deepfake.data.corruptions import KINDS, DamagedClips
from deepfake.data.options import AugmentOptions
from deepfake.data.prepare import cut_settings
from deepfake.runs.build import Run
from deepfake.runs.evaluate import Evaluated
from deepfake.runs.solved import FACT
from deepfake.training.evaluation import Evaluation, Units, resampling_units
from deepfake.training.options import switched

if TYPE_CHECKING:
    from deepfake.models.detector import Detector
    from deepfake.training.leaning import Fall
    from deepfake.training.trainer import FitResult

#: Test samples that are looked at.
_MOST, _FEWEST = 200, 40
#: Frames of training, of which so many are read for each of ours.
_TENTH = 10
#: What training on a frame, and a gradient of it, cost, in frames that are only read.
_TRAINED = 3
#: A ROC-AUC that surely falls by more leans on what was changed.
_FALLS = 0.05
#: A thumbnail that surely tells the class better than this is a framing to lean on.
_FRAMED = 0.6
#: A gradient that surely lies in the face by less than this part of what chance would put there looks beside it.
_BESIDE = 0.8
_NARROW = 0.9  # of the side: a face box that leaves less beside it tells nothing
_CROP = AugmentOptions(crop=1.0, crop_scale=[0.35, 0.6], crop_shift=1.0)
_JPEG = 50


@dataclass(frozen=True)
class Kind:
    """One way of changing pictures.

    Attributes:
        metric: Below the split's name.
        leans: What a detector leans on that falls by it.
        when: What was done, as the end of a sentence.
        advice: What to train with instead.
    """

    metric: str
    leans: str
    when: str
    advice: str


CROP = Kind(
    "drop_crop",
    "framing",
    "when pictures are cropped at random",
    "augment=strong trains on other framings, see docs/evaluation.md",
)
JPEG = Kind(
    "drop_jpeg",
    "fine detail",
    f"when pictures are compressed (JPEG quality {_JPEG})",
    "augment=forensic trains on compressed pictures, see docs/evaluation.md",
)


def lean(run: Run, result: FitResult, evaluated: Evaluated) -> list[str]:
    """Look at what a finished run leans on, add it to its numbers, and say what deserves a line.

    Args:
        run: With the best epoch's weights.
        result: How it was trained.
        evaluated: Gets ``test/drop_crop``, ``test/drop_jpeg``, ``test/saliency_face`` and their ends.

    Returns:
        A sentence for each thing that it leans on.
    """
    most = _affordable(run)
    if not switched(run.config.evaluation.leaning, most > 0):
        return []
    from deepfake.training.leaning import OneClipEach, balanced_rows, fall

    plain = ClipSet(run.data.store, run.data.splits["test"].table)
    usable = np.where(plain.table["status"] == "ok", plain.table["label"], -1)
    rows = balanced_rows(usable, most or _MOST)
    if min(np.bincount(plain.table["label"].iloc[rows], minlength=2)) < 2:
        return []
    looked = OneClipEach(plain, rows)
    changed: Mapping[Kind, ClipSource] = {
        CROP: OneClipEach(ClipSet(run.data.store, plain.table, augment=_CROP), rows),
        JPEG: OneClipEach(DamagedClips(plain, KINDS["JPEG"], _JPEG), rows),
    }
    labels, units = looked.table["label"].to_numpy(np.int64), _units(looked.table, run)
    detector = _whole(run)
    before = _known(evaluated.clips, looked)
    lines, level = [], run.config.evaluation.level
    for kind, clips in changed.items():
        found = fall(labels, before, _logits(run, detector, clips, result), units, level)
        _add(evaluated.found, kind.metric, found, units)
        lines += _line(kind, found, units, run)
    return lines + _looks_beside(run, detector, looked, units, evaluated.found)


def _affordable(run: Run) -> int:
    """How many test samples can be looked at for a tenth of what training costs; 0 where that is too few.

    Counted in frames that a backbone reads, so that it is the same on every machine.
    """
    config, train = run.config, run.data.splits["train"]
    if config.features.cached and run.context.number is not None:
        return 0  # a sweep on stored features trains on none
    each = 1 if config.backbone.freeze else _TRAINED
    frames = config.trainer.epochs * float(np.sum(train.lengths)) * each / _TENTH
    # Cropped and compressed, and some gradients.
    count = int(frames / max([*train.lengths, 1]) / (2 + _TRAINED))
    tested = len(run.data.splits["test"].table)
    return min(count, _MOST) if count >= min(_FEWEST, tested) else 0


def _units(table: pd.DataFrame, run: Run) -> Units:
    groups = run.data.manifest.table.set_index("sample_id")["groups"].loc[table["sample_id"]].reset_index(drop=True)
    return resampling_units(groups, table["label"].to_numpy(np.int64))


def _whole(run: Run) -> Detector:
    """The run's detector where it reads pixels, not stored features."""
    from deepfake.training.features.extract import FeatureReader

    return run.detector.of_pixels(freeze=True) if isinstance(run.detector, FeatureReader) else run.detector


def _known(clips: pd.DataFrame, looked: ClipSource) -> np.ndarray:
    """The logits that these clips had when the test part was scored."""
    tested = clips[clips["split"] == "test"].set_index(["sample_id", "clip"])["logit"]
    # OneClipEach has the clips' own numbers in the second column, as tables of scores do.
    names = zip(looked.table["sample_id"], looked.items[:, 1].tolist(), strict=True)
    return tested.loc[list(names)].to_numpy(np.float64)


def _logits(run: Run, detector: Detector, clips: ClipSource, result: FitResult) -> np.ndarray:
    from deepfake.training.scoring import score

    with run.console.progress() as bar:
        scored = score(
            detector,
            clips,
            fabric=run.fabric,
            batch_size=result.batch_size,
            split="test",
            progress=bar,
            options=run.config.evaluation,
        )
    return scored.clips["logit"].to_numpy(np.float64)


def _add(found: Evaluation, metric: str, one: Fall, units: Units) -> None:
    name = f"test/{metric}"
    found.values[name] = one.drop.value
    if one.reason:
        found.unavailable[f"{name}_low"] = one.reason
    else:
        found.values |= {f"{name}_low": one.drop.low, f"{name}_high": one.drop.high}
        found.intervals[name] = f"DeLong over {len(units)} {units.name}"


def _line(kind: Kind, found: Fall, units: Units, run: Run) -> list[str]:
    if found.reason or not found.drop.low > _FALLS:
        return []
    leans = "" if kind is CROP and not _is_framed(run) else f"leans on {kind.leans}: "
    fell = f"ROC-AUC falls from {found.before:.3f} to {found.after:.3f} {kind.when}"
    sure = f"by {found.drop.low:.3f} to {found.drop.high:.3f}, {len(units.codes)} test samples"
    return [f"{leans}{fell} ({sure}); {kind.advice}"]


def _is_framed(run: Run) -> bool:
    """Whether the audit found that a thumbnail tells the classes apart: a fall may also be one of lost detail."""
    found = (run.data.audit.facts.get(FACT) or {}).get("framing") or {}
    return (found.get("low") or 0.0) > _FRAMED


def _looks_beside(run: Run, detector: Detector, looked: ClipSource, units: Units, found: Evaluation) -> list[str]:
    """Whether the gradient lies beside the faces, where it is known where in a crop they are."""
    from deepfake.training.leaning import mean_interval, saliency_inside

    margin = cut_settings(run.config.dataset, run.config.head.temporal, run.config.cache).margin
    side = 1 / (1 + margin)
    if side > _NARROW:
        return []
    shares, places = saliency_inside(detector, looked, side, run.fabric)
    known = np.isfinite(shares)
    mean = mean_interval(shares[known], units.codes[places[known]], run.config.evaluation.level)
    if not np.isfinite(mean.low):
        return []
    found.values |= {
        "test/saliency_face": mean.value,
        "test/saliency_face_low": max(mean.low, 0.0),
        "test/saliency_face_high": min(mean.high, 1.0),
    }
    if mean.high >= _BESIDE * side**2:
        return []
    return [
        f"leans on what is beside the face: {mean.value:.0%} of its gradient lies in the face box, which is "
        f"{side**2:.0%} of the picture; a smaller dataset.margin shows less of the rest, see docs/evaluation.md"
    ]
