"""Known good points to try first: those the user names, and the best of other studies.

Holds each point to the space, so that a mistake ends the start before anything runs; notes say what a point of another
study lacks here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from deepfake.compat import contains
from deepfake.errors import UserError, nearest
from deepfake.options import flatten, overrides_by_key
from deepfake.sweeping.options import SweepOptions
from deepfake.sweeping.samplers import SAMPLERS
from deepfake.sweeping.search_space import Parameter, Value, to_text
from deepfake.sweeping.stopping import is_feasible
from deepfake.sweeping.storage import Location, locate, open_storage

#: How many of other studies' best points are tried: of several studies' the best ones first, at least one of each.
_BEST = 5
_MOST_SHOWN = 5


@dataclass(frozen=True)
class WarmStart:
    """What to begin with.

    Attributes:
        named: The points of ``sweep.enqueue``.
        borrowed: Those of each study of ``sweep.from`` that are not among them, nor another's, by its name.
        notes: What the borrowed ones leave behind or are completed with, for the user.
    """

    named: list[dict[str, Value]] = field(default_factory=list)
    borrowed: dict[str, list[dict[str, Value]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def warm_start(
    options: SweepOptions,
    sampler: str,
    parameters: Sequence[Parameter],
    folder: Path,
    setting: Mapping[str, str],
) -> WarmStart:
    """The points to begin with.

    Args:
        sampler: Who chooses the other points.
        setting: What is fixed in this study.

    Raises:
        UserError: A point that is not in the space, no such study, or a sampler that takes no points.
    """
    known = {parameter.key: parameter for parameter in parameters}
    named = [_named(entry, known) for entry in options.enqueue]
    if (named or options.sources) and SAMPLERS[sampler].wants_space:
        raise UserError("a grid tries every point anyway, and takes none first", "take sampler=bruteforce or tpe")
    found: dict[str, list[dict[str, Value]]] = {}
    notes: list[str] = []
    for source in options.sources:
        found[source], said = _best_of(source, options, folder, parameters, setting)
        notes += said
    return WarmStart(named, _shared_out(found, named), notes)


def _shared_out(found: Mapping[str, list[dict[str, Value]]], named: list[dict[str, Value]]) -> dict[str, list[Any]]:
    """The best points of several studies, taken in turns: the best of each, then the second of each."""
    taken: dict[str, list[dict[str, Value]]] = {source: [] for source in found}
    seen = list(named)
    for rank in range(_BEST):
        for source, points in found.items():
            enough = sum(map(len, taken.values())) >= _BEST and taken[source]
            if rank < len(points) and not enough and points[rank] not in seen:
                taken[source].append(points[rank])
                seen.append(points[rank])
    return taken


def _named(entry: Any, known: Mapping[str, Parameter]) -> dict[str, Value]:
    given = _values(entry)
    for key in given:
        if key not in known:
            raise UserError(f"sweep.enqueue sets {key!r}, which is not swept", nearest(key, known))
    point = {}
    for key, value in given.items():
        point[key], inside = fit(known[key], value)
        if not inside:
            raise UserError(
                f"sweep.enqueue sets {key}={value}, which lies outside {known[key].text}",
                "widen the space, or leave the point out",
            )
    return point


def _values(entry: Any) -> dict[str, Any]:
    """A point's values by dotted key, as ``key=value key=value`` or as keys, which may be nested."""
    if isinstance(entry, str):
        return {key: value for key, _, value in (text.partition("=") for text in entry.split())}
    if not isinstance(entry, Mapping):
        raise UserError(f"sweep.enqueue holds {entry!r}", "write [{optimizer.lr: 1e-3, trainer.batch_size: 32}]")
    return flatten(entry)


def fit(parameter: Parameter, value: Any) -> tuple[Value, bool]:
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
    return number, contains(kind, kind.to_internal_repr(number))


def _best_of(
    source: str, options: SweepOptions, folder: Path, parameters: Sequence[Parameter], setting: Mapping[str, str]
) -> tuple[list[dict[str, Value]], list[str]]:
    location, name = _find(source, options, folder)
    storage = open_storage(location)
    names = optuna.get_all_study_names(storage)
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        raise UserError(f"sweep.from={source} names no study of {location}", nearest(source, names))
    study = optuna.load_study(study_name=name, storage=storage)
    if len(study.directions) > 1:
        trials = study.best_trials
    else:
        trials = [
            trial for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if is_feasible(trial)
        ]
        better = study.direction is optuna.study.StudyDirection.MAXIMIZE
        trials = sorted(trials, key=lambda trial: float(trial.value or 0.0), reverse=better)
    fixed = _fixed_in(study)
    points: list[dict[str, Value]] = []
    notes: list[str] = []
    for trial in trials[:_BEST]:
        point, remarks = _borrow(trial, parameters, fixed)
        notes += remarks
        if point and point not in points:
            points.append(point)
    swept = {parameter.key for parameter in parameters}
    for key in dict.fromkeys(key for trial in trials[:_BEST] for key in trial.params if key not in swept):
        notes.append(f"{key} was swept there and is {setting.get(key, 'not')} {'' if key in setting else 'swept '}here")
    differing = [key for key in fixed if key in setting and fixed[key] != setting[key]]
    if differing:
        shown = ", ".join(
            f"{key} was {fixed[key]} and is {setting[key]} here" for key in sorted(differing)[:_MOST_SHOWN]
        )
        more = f", and {len(differing) - _MOST_SHOWN} more" if len(differing) > _MOST_SHOWN else ""
        notes.append(f"its trials ran with other settings: {shown}{more}")
    return points, [f"sweep.from={source}: {note}" for note in dict.fromkeys(notes)]


def _borrow(
    trial: FrozenTrial, parameters: Sequence[Parameter], fixed: Mapping[str, str]
) -> tuple[dict[str, Value], list[str]]:
    """A trial of another study as a point of this space, completed with what was fixed there.

    Returns:
        The point, empty where it lies outside this space, and what to say of it.
    """
    point: dict[str, Value] = {}
    notes: list[str] = []
    for parameter in parameters:
        key = parameter.key
        if not parameter.applies(point):
            continue
        if key not in trial.params and key not in fixed:
            notes.append(f"nothing is known of {key} there, the sampler draws it")
            # What applies beside it is not known either.
            continue
        value, inside = fit(parameter, trial.params.get(key, fixed.get(key)))
        if not inside:
            was = "had" if key in trial.params else "was run with"
            return {}, [f"its trial {trial.number} {was} {key}={value}, outside {parameter.text}, and is left out"]
        if key not in trial.params:
            notes.append(f"{key}={to_text(value)} was fixed there, and its points are completed with it")
        point[key] = value
    return point, notes


def _fixed_in(study: optuna.Study) -> dict[str, str]:
    """What a study's trials had in common, as far as that is recorded: its settings, and the groups chosen for all."""
    fingerprint = json.loads(study.user_attrs.get("fingerprint", "{}"))
    overrides = json.loads(study.user_attrs.get("overrides", "[]"))
    choices = json.loads(study.user_attrs.get("choices", "{}"))
    return {**choices, **overrides_by_key(overrides), **fingerprint.get("setting", {})}


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
