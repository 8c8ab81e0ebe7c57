"""Samplers and pruners by their names, with Optuna's own arguments.

A list of our own says which classes a config may name; nothing here imports what a config spells out.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import pruners, samplers
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from deepfake.errors import UserError, nearest
from deepfake.sweeping.observer import Objective
from deepfake.sweeping.space import Parameter, all_points

#: Arguments that are functions or objects, which no config file can hold.
_NOT_IN_CONFIGS = (  # noqa: SIM905
    "seed gamma weights constraints_func independent_sampler x0 source_trials mutation crossover reference_points "
    "elite_population_selection_strategy child_generation_strategy after_trial_strategy search_space"
).split()


@dataclass(frozen=True)
class SamplerKind:
    """One sampler.

    Attributes:
        create: The class.
        finite: It lists every point, so each key needs a list of values.
        conditional: It copes with keys that apply only sometimes.
        several: It copes with several objectives.
        wants_space: It is given the space beforehand.
        one_seed: All its draws form one sequence, which one seed numbers through; others are seeded per trial.
    """

    create: Callable[..., BaseSampler]
    finite: bool = False
    conditional: bool = True
    several: bool = True
    wants_space: bool = False
    one_seed: bool = False


SAMPLERS: dict[str, SamplerKind] = {
    "tpe": SamplerKind(samplers.TPESampler),
    "gp": SamplerKind(samplers.GPSampler),
    "cmaes": SamplerKind(samplers.CmaEsSampler, several=False),
    "nsga2": SamplerKind(samplers.NSGAIISampler),
    "nsga3": SamplerKind(samplers.NSGAIIISampler),
    "random": SamplerKind(samplers.RandomSampler),
    "qmc": SamplerKind(samplers.QMCSampler, one_seed=True),
    "grid": SamplerKind(samplers.GridSampler, finite=True, conditional=False, wants_space=True, one_seed=True),
    "bruteforce": SamplerKind(samplers.BruteForceSampler, finite=True),
}


def _patient(patience: int, min_delta: float = 0.0) -> BasePruner:
    return pruners.PatientPruner(pruners.MedianPruner(), patience=patience, min_delta=min_delta)


PRUNERS: dict[str, Callable[..., BasePruner]] = {
    "none": pruners.NopPruner,
    "median": pruners.MedianPruner,
    "percentile": pruners.PercentilePruner,
    "asha": pruners.SuccessiveHalvingPruner,
    "hyperband": pruners.HyperbandPruner,
    "wilcoxon": pruners.WilcoxonPruner,
    "threshold": pruners.ThresholdPruner,
    "patient": _patient,
}


def create_sampler(settings: Mapping[str, Any], parameters: Sequence[Parameter], seed: int, begun: int) -> BaseSampler:
    """The sampler for the next trial.

    Args:
        settings: ``name`` and Optuna's arguments.
        parameters: The space.
        seed: The sweep's.
        begun: How many trials the study has begun, so that a resumed study does not draw its first points again.

    Raises:
        UserError: An unknown name or argument, or a value Optuna refuses.
    """
    name, arguments = _split("sampler", settings, SAMPLERS)
    kind = SAMPLERS[name]
    if kind.wants_space:
        arguments["search_space"] = {parameter.key: parameter.values() for parameter in parameters}
    arguments["seed"] = seed if kind.one_seed else (seed * 1_000_003 + begun) % 2**32
    return _create(f"sampler={name}", kind.create, arguments)


def create_pruner(settings: Mapping[str, Any]) -> BasePruner:
    """The pruner that every process of a study builds alike.

    Raises:
        UserError: An unknown name or argument, or a value Optuna refuses.
    """
    name, arguments = _split("pruner", settings, PRUNERS)
    return _create(f"pruner={name}", PRUNERS[name], arguments)


def check_choice(
    sampler: Mapping[str, Any],
    pruner: Mapping[str, Any],
    parameters: Sequence[Parameter],
    objectives: Sequence[Objective],
) -> int | None:
    """Hold a sampler and a pruner to the space and the objectives.

    Returns:
        How many points there are for a sampler that lists them all, None for others.

    Raises:
        UserError: They do not go together.
    """
    name, _ = _split("sampler", sampler, SAMPLERS)
    kind = SAMPLERS[name]
    for parameter in parameters:
        if kind.finite and parameter.values() is None:
            raise UserError(
                f"sampler={name} lists every point, but {parameter.key}={parameter.text} is continuous",
                "give it choice(...) or range(...), or take sampler=tpe",
            )
        if parameter.when and not kind.conditional:
            raise UserError(
                f"sampler={name} cannot leave out {parameter.key}, which applies only sometimes",
                "take sampler=bruteforce",
            )
    if len(objectives) > 1 and not kind.several:
        raise UserError(f"sampler={name} takes one objective", "take sampler=tpe, nsga2 or nsga3")
    stopper, _ = _split("pruner", pruner, PRUNERS)
    if len(objectives) > 1 and stopper != "none":
        raise UserError(f"pruner={stopper} takes one objective", "take pruner=none")
    create_sampler(sampler, parameters, 0, 0)
    create_pruner(pruner)
    points = all_points(parameters) if kind.finite else None
    return None if points is None else len(points)


def is_pruning(pruner: Mapping[str, Any]) -> bool:
    """Whether the pruner ever ends a trial early."""
    return not isinstance(create_pruner(pruner), pruners.NopPruner)


def _split(what: str, settings: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name = str(settings.get("name"))
    if name not in known:
        raise UserError(f"{what}={name} does not exist", nearest(name, known))
    return name, {str(key): value for key, value in settings.items() if key != "name" and value is not None}


def _create(what: str, kind: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    accepted = inspect.signature(kind).parameters
    given = [key for key in arguments if key not in ("seed", "search_space")]
    settable = [key for key in accepted if key not in (*_NOT_IN_CONFIGS, "args", "kwargs")]
    for key in given:
        if key not in settable:
            raise UserError(f"{what} takes no {key!r}", nearest(key, settable))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return kind(**arguments)
    except (ValueError, TypeError) as error:
        raise UserError(f"{what} refuses its settings: {error}", "see the file of that name in sweeps/") from error
    except ImportError as error:
        raise UserError(f"{what} needs another package: {error}", "pip install what it names") from error
