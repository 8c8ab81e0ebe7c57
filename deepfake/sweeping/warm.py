"""Known good points to try first: those the user names, and the best of another study.

Holds each point to the space, so that a mistake is told before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from deepfake.errors import UserError, nearest
from deepfake.sweeping.options import SweepOptions
from deepfake.sweeping.samplers import SAMPLERS
from deepfake.sweeping.space import Parameter, Value, to_text
from deepfake.sweeping.storage import Location, locate, open_storage

#: How many of another study's best points are tried.
_BEST = 5


def warm_points(options: SweepOptions, parameters: Sequence[Parameter], folder: Path) -> list[dict[str, Value]]:
    """The points to begin with, those of ``sweep.enqueue`` before those of ``sweep.from``.

    Raises:
        UserError: A point that is not in the space, no such study, or a sampler that takes no points.
    """
    known = {parameter.key: parameter for parameter in parameters}
    points = [_named(entry, known) for entry in options.enqueue]
    if options.source is not None:
        points += [point for point in _best_of(options, folder, known) if point not in points]
    if points and SAMPLERS[str(options.sampler["name"])].wants_space:
        raise UserError("a grid tries every point anyway, and takes none first", "take sampler=bruteforce or tpe")
    return points


def _named(entry: Any, known: Mapping[str, Parameter]) -> dict[str, Value]:
    given = dict(_pairs(entry))
    for key in given:
        if key not in known:
            raise UserError(f"sweep.enqueue sets {key!r}, which is not swept", nearest(key, known))
    point = {}
    for key, value in given.items():
        point[key], inside = _fit(known[key], value)
        if not inside:
            raise UserError(
                f"sweep.enqueue sets {key}={value}, which lies outside {known[key].text}",
                "widen the space, or leave the point out",
            )
    return point


def _pairs(entry: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(entry, str):
        return [(key, value) for key, _, value in (text.partition("=") for text in entry.split())]
    if not isinstance(entry, Mapping):
        raise UserError(f"sweep.enqueue holds {entry!r}", "write [{optimizer.lr: 1e-3, trainer.batch_size: 32}]")
    pairs: list[tuple[str, Any]] = []
    for key, value in entry.items():
        pairs += _pairs(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs


def _fit(parameter: Parameter, value: Any) -> tuple[Value, bool]:
    """A value as the space spells it, and whether it lies inside."""
    kind = parameter.distribution
    if isinstance(kind, CategoricalDistribution):
        for choice in kind.choices:
            if to_text(choice) == (value if isinstance(value, str) else to_text(value)):
                return choice, True
        return value, False
    try:
        number = kind.to_external_repr(kind.to_internal_repr(float(value)))
    except (TypeError, ValueError):
        return value, False
    return number, bool(kind._contains(kind.to_internal_repr(number)))


def _best_of(options: SweepOptions, folder: Path, known: Mapping[str, Parameter]) -> list[dict[str, Value]]:
    location, name = _find(str(options.source), options, folder)
    storage = open_storage(location)
    names = optuna.get_all_study_names(storage)
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        raise UserError(f"sweep.from={options.source} names no study of {location}", nearest(options.source, names))
    study = optuna.load_study(study_name=name, storage=storage)
    if len(study.directions) > 1:
        trials = study.best_trials
    else:
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        better = study.direction is optuna.study.StudyDirection.MAXIMIZE
        trials = sorted(trials, key=lambda trial: float(trial.value or 0.0), reverse=better)
    points = []
    for trial in trials[:_BEST]:
        fitted = {key: _fit(known[key], value) for key, value in trial.params.items() if key in known}
        point = {key: value for key, (value, inside) in fitted.items() if inside}
        if point and point not in points:
            points.append(point)
    return points


def _find(source: str, options: SweepOptions, folder: Path) -> tuple[Location, str | None]:
    """A study's file, or a study beside this one; by name on the same server."""
    path = Path(source).expanduser()
    if path.is_file():
        return locate(str(path), folder), None
    if "://" in options.storage:
        return locate(options.storage, folder), source
    for file in ("study.journal", "study.db"):
        if (folder.parent / source / file).is_file():
            return locate(str(folder.parent / source / file), folder), source
    studies = [found.parent.name for found in folder.parent.glob("*/study.*") if found.suffix in (".journal", ".db")]
    raise UserError(f"sweep.from={source}: there is no such study in {folder.parent}", nearest(source, studies))
