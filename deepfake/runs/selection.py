"""What the config's selection names as clips: validation under damage, other data, and parts that are held out.

What needs crops is made once, with the run's data; what is a part of clips that are there, at the fit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
import pandas as pd

from deepfake.config import RunConfig
from deepfake.data.clips import ClipSet, ClipSource, PartOfClips
from deepfake.data.corruptions import KINDS, DamagedClips
from deepfake.data.dataset import read_dataset
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError, UserError, nearest
from deepfake.runs.build import Data, Run, prepare
from deepfake.runs.console import Console
from deepfake.training.selection import Fold, Selection

#: Of a data set's keys those that say how faces become clips: other data is read as the run's own.
_AS_HERE = (
    "faces",
    "face_model",
    "margin",
    "align",
    "box",
    "view",
    "normalise_format",
    "size",
    "frames",
    "clips",
    "stride",
    "stride_seconds",
    "slack",
    "workers",
)
_CLASSES = ("real", "fake")


def with_selected(config: RunConfig, data: Data, console: Console) -> Data:
    """A run's data with the clips, beyond its own, that it is chosen by.

    Raises:
        UserError: A damage that there is not, or that does nothing here; other data that cannot be read, or has only
            one class.
    """
    options = config.selection
    val = data.splits["val"]
    selected: dict[str, tuple[ClipSource, Mapping[str, str]]] = {}
    for name in options.damaged:
        if name not in KINDS:
            raise UserError(f"selection.damaged names {name!r}, which is no damage", nearest(name, KINDS))
        kind = KINDS[name]
        if kind.over_time and config.dataset.frames == 1:
            raise UserError(f"selection.damaged: {name} does nothing to single frames", "leave it out")
        severity = kind.severities[min(options.severity, len(kind.severities)) - 1]
        assert isinstance(val, ClipSet)
        how = f"{name} {severity:g}"
        selected[how] = (
            DamagedClips(val, kind, severity),
            {sample: f"{digest} {how}" for sample, digest in data.store.contents.items()},
        )
    for number, part in enumerate(options.holdout_sets):
        name, clips, contents = _other_set(config, part, f"selection.holdout_sets[{number}]", console)
        selected[name if name not in selected else f"{name} {number}"] = clips, contents
    for name, (clips, _) in selected.items():
        _check_classes(clips, f"selection: {name}")
    return replace(data, selected=selected)


def selection_of(run: Run) -> Selection:
    """All that chooses a run's best epoch.

    Raises:
        UserError: Nothing would; a method or set that is not there; a part without which one class is left.
    """
    options, train, val = run.config.selection, run.data.splits["train"], run.data.splits["val"]
    if options.plain:
        return Selection()
    sets = {name: clips for name, (clips, _) in run.data.selected.items()}
    if options.holdout_methods:
        _check_named(options.holdout_methods, train, val)
        sets["held out"] = _held(val, "method", options.holdout_methods, "selection.holdout_methods")
    folds = {}
    if options.leave_one_out != "none":
        column = {"methods": "method", "sets": "dataset"}[options.leave_one_out]
        folds = _folds(_trained(train, options.holdout_methods), val, column)
    if not (options.val or sets or folds):
        raise UserError("selection counts nothing: the best epoch could not be told", _ADVICE)
    return Selection(options.val, sets, folds, options.combine)


_ADVICE = (
    "name what counts: selection.holdout_methods, holdout_sets, leave_one_out or damaged; or set selection.val=true"
)


def trained_on(run: Run) -> ClipSource:
    """The run's training clips without the methods that are held out."""
    return _trained(run.data.splits["train"], run.config.selection.holdout_methods)


def _trained(train: ClipSource, methods: Sequence[str]) -> ClipSource:
    if not methods:
        return train
    left = _without(train, "method", methods)
    _check_classes(left, f"training without {', '.join(methods)}")
    return left


def _folds(train: ClipSource, val: ClipSource, column: str) -> dict[str, Fold]:
    what = "methods" if column == "method" else "data sets"
    fakes = train.table[train.table["label"] == 1] if column == "method" else train.table
    names = sorted(map(str, fakes[column].unique()))
    if len(names) < 2:
        raise UserError(
            f"selection.leave_one_out: the training clips are of {len(names)} of the {what}: {', '.join(names)}",
            "two are needed, of which one can be left out; selection=damaged needs one",
        )
    folds = {}
    for name in names:
        left = _without(train, column, [name])
        _check_classes(left, f"training without {name}")
        folds[f"without {name}"] = Fold(left, _held(val, column, [name], "selection.leave_one_out"))
    return folds


def _without(clips: ClipSource, column: str, names: Collection[str]) -> ClipSource:
    """The clips without fakes by these methods, or without these data sets."""
    out = clips.table[column].isin(names)
    if column == "method":
        out &= clips.table["label"] == 1
    return PartOfClips(clips, np.flatnonzero(~out))


def _held(val: ClipSource, column: str, names: Collection[str], key: str) -> ClipSource:
    """What was left out, of validation: fakes by these methods and all reals, or these data sets."""
    held = val.table[column].isin(names)
    if column == "method":
        held |= val.table["label"] == 0
    part = PartOfClips(val, np.flatnonzero(held))
    _check_classes(part, f"{key}: validation of {', '.join(names)}")
    return part


def _check_named(methods: Sequence[str], train: ClipSource, val: ClipSource) -> None:
    tables = pd.concat([train.table, val.table])
    known = sorted(map(str, tables.loc[tables["label"] == 1, "method"].unique()))
    for name in methods:
        if name not in known:
            raise UserError(f"selection.holdout_methods: no fake is by {name!r}", nearest(name, known))


def _check_classes(clips: ClipSource, what: str) -> None:
    there = {name for label, name in enumerate(_CLASSES) if (clips.labels == label).any()}
    there |= {"fake"} if clips.made_fake else set()
    if missing := [name for name in _CLASSES if name not in there]:
        raise UserError(f"{what} has no {' and no '.join(missing)} samples", _ADVICE)


def _other_set(
    config: RunConfig, part: Mapping[str, object], where: str, console: Console
) -> tuple[str, ClipSource, Mapping[str, str]]:
    """Another data set, but for its test split: its name, clips and digests."""
    known = {field.name for field in fields(DatasetOptions)} - {"parts", *_AS_HERE}
    for key in part:
        if key not in known:
            raise DataError(f"{where} has the key {key!r}", nearest(str(key), known))
    if "layout" not in part:
        raise DataError(f"{where} names no layout", "write {layout: images, root: /data/faces}")
    here = {name: getattr(config.dataset, name) for name in _AS_HERE}
    options = DatasetOptions(**{"name": str(part["layout"]), **part, **here})
    manifest = read_dataset(options, config.cache)
    table = manifest.table[manifest.table["split"] != "test"].reset_index(drop=True)
    manifest = replace(manifest, table=table.assign(split="val"))
    store = prepare(replace(config, dataset=options), manifest, console)
    return options.name, ClipSet(store, manifest.table), store.contents
