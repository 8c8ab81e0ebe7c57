"""Samplers and pruners by their names, with Optuna's own arguments.

A list of our own says which classes a config may name; nothing here imports what a config spells out.
"""

from __future__ import annotations

import functools
import inspect
import random
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Study, pruners, samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from deepfake.errors import UserError, nearest
from deepfake.sweeping.callbacks import Objective
from deepfake.sweeping.constraints import Constraint
from deepfake.sweeping.promotion import Promotion
from deepfake.sweeping.search_space import Parameter, Value, all_points, count_points, to_text

#: Arguments that are functions or objects, which no config file can hold.
_NOT_IN_CONFIGS = (  # noqa: SIM905
    "seed gamma weights constraints_func independent_sampler x0 source_trials mutation crossover reference_points "
    "elite_population_selection_strategy child_generation_strategy after_trial_strategy search_space"
).split()


#: In a continuous space they never draw a point twice.
_SELDOM_AGAIN = (samplers.RandomSampler, samplers.QMCSampler)
#: How often a sampler is asked for a point that was not tried, and how often it may come with the same one.
_TRIES, _ENOUGH = 10, 3
Identity = frozenset[tuple[str, str]]
#: The points of ended trials by number: what has ended is looked at once.
Tried = dict[int, Identity]


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
        numbers_only: It draws keys that are not numbers at random.
        constrained: It looks for points that keep constraints.
        blind: It looks at the points of other trials at most, never at their results.
        ordered: What it draws depends on nothing but its seed and the trials that it is shown.
    """

    create: Callable[..., BaseSampler]
    finite: bool = False
    conditional: bool = True
    several: bool = True
    wants_space: bool = False
    one_seed: bool = False
    numbers_only: bool = False
    constrained: bool = False
    blind: bool = False
    ordered: bool = True


SAMPLERS: dict[str, SamplerKind] = {
    "tpe": SamplerKind(samplers.TPESampler, constrained=True),
    "gp": SamplerKind(samplers.GPSampler, constrained=True),
    "cmaes": SamplerKind(samplers.CmaEsSampler, several=False, numbers_only=True),
    "nsga2": SamplerKind(samplers.NSGAIISampler, constrained=True),
    "nsga3": SamplerKind(samplers.NSGAIIISampler, constrained=True),
    "random": SamplerKind(samplers.RandomSampler, blind=True),
    "qmc": SamplerKind(samplers.QMCSampler, one_seed=True, numbers_only=True, blind=True),
    "grid": SamplerKind(
        samplers.GridSampler, finite=True, conditional=False, wants_space=True, one_seed=True, blind=True
    ),
    "bruteforce": SamplerKind(samplers.BruteForceSampler, finite=True, blind=True),
}


def _patient(patience: int, min_delta: float = 0.0) -> BasePruner:
    return pruners.PatientPruner(pruners.MedianPruner(), patience=patience, min_delta=min_delta)


def _promote(
    min_resource: int = 1,
    reduction_factor: int = 3,
    min_early_stopping_rate: int = 0,
    brackets: int = 1,
    ahead: float = 0.0,
    eager: bool | None = None,
) -> BasePruner:
    Promotion(min_resource, reduction_factor, min_early_stopping_rate, brackets, ahead, eager is not False)
    # Its trials are paused, by the study: for Optuna nothing is pruned.
    return pruners.NopPruner()


@dataclass(frozen=True)
class PrunerKind:
    """One pruner.

    Attributes:
        create: The class, or what makes one.
        blind: It looks at no other trial.
        ordered: What it says depends on nothing but the trial's own reports and the trials that it is shown.
    """

    create: Callable[..., BasePruner]
    blind: bool = False
    ordered: bool = True


#: Pauses trials rather than ending them.
_PROMOTING = "promote"
PRUNERS: dict[str, PrunerKind] = {
    "none": PrunerKind(pruners.NopPruner, blind=True),
    _PROMOTING: PrunerKind(_promote, ordered=False),
    "median": PrunerKind(pruners.MedianPruner),
    "percentile": PrunerKind(pruners.PercentilePruner),
    "asha": PrunerKind(pruners.SuccessiveHalvingPruner),
    "hyperband": PrunerKind(pruners.HyperbandPruner),
    "wilcoxon": PrunerKind(pruners.WilcoxonPruner),
    "threshold": PrunerKind(pruners.ThresholdPruner, blind=True),
    "patient": PrunerKind(_patient),
}


def create_sampler(
    settings: Mapping[str, Any], parameters: Sequence[Parameter], seed: int, number: int, tried: Tried | None = None
) -> BaseSampler:
    """The sampler for one trial.

    Args:
        settings: ``name`` and Optuna's arguments.
        parameters: The space.
        seed: The sweep's.
        number: The trial's, with which the seed changes.
        tried: Given where it may not draw a point that the study has tried: what is known of those, kept up to date.

    Raises:
        UserError: An unknown name or argument, or a value Optuna refuses.
    """
    name, arguments = _split("sampler", settings, SAMPLERS)
    kind = SAMPLERS[name]
    if kind.wants_space:
        arguments["search_space"] = {parameter.key: parameter.values() for parameter in parameters}
    arguments["seed"] = seed if kind.one_seed else (seed * 1_000_003 + number) % 2**32
    warns = _parameters_of(kind.create).get("warn_independent_sampling")
    if warns is not None and warns.default is True:
        # Optuna would warn at every trial; sampler_notes says it once.
        arguments.setdefault("warn_independent_sampling", False)
    sampler: BaseSampler = _create(f"sampler={name}", kind.create, arguments)
    if tried is None or kind.finite or (kind.create in _SELDOM_AGAIN and count_points(parameters) is None):
        return sampler
    return Distinct(sampler, parameters, (seed * 1_000_003 + number) % 2**32, tried)


def sampler_notes(settings: Mapping[str, Any], parameters: Sequence[Parameter]) -> list[str]:
    """What a user should know of how a sampler draws from a space."""
    name, _ = _split("sampler", settings, SAMPLERS)
    others = [item.key for item in parameters if isinstance(item.distribution, CategoricalDistribution)]
    if not SAMPLERS[name].numbers_only or not others:
        return []
    return [f"sampler={name} chooses numbers alone: {', '.join(others)} drawn at random"]


class Distinct(BaseSampler):
    """Wraps a sampler: it is asked again while it draws a point that the study has tried.

    Whole points are compared, so it draws a trial's every key at once, before the first is handed out. After some
    tries it takes any point that is left.

    Args:
        sampler: The sampler that draws.
        parameters: The space.
        seed: For what is drawn where the sampler only repeats itself.
        tried: The points of ended trials, as far as they are known; grows.
    """

    def __init__(self, sampler: BaseSampler, parameters: Sequence[Parameter], seed: int, tried: Tried) -> None:
        self._sampler = sampler
        self._parameters = parameters
        self._seed = seed
        self._tried = tried
        self._drawn: tuple[int, dict[str, Value]] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # Here, for the study calls this before it locks its storage, and asks for single keys while it does.
        self._drawn = trial.number, self._draw(study, trial)
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self._drawn is None or self._drawn[0] != trial.number:
            self._drawn = trial.number, self._draw(study, trial)
        point = self._drawn[1]
        if param_name not in point:
            return self._sampler.sample_independent(study, trial, param_name, param_distribution)
        return point[param_name]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()

    def _draw(self, study: Study, trial: FrozenTrial) -> dict[str, Value]:
        fixed: dict[str, Value] = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        seen = self._seen(study, trial)
        space = self._sampler.infer_relative_search_space(study, trial)
        came: Counter[Identity] = Counter()
        while came.total() < _TRIES and max(came.values(), default=0) < _ENOUGH:
            point = self._point(self._sampler, study, trial, space, fixed)
            if identity(point) not in seen:
                return point
            came[identity(point)] += 1
        return self._any_other(study, trial, fixed, seen) or point

    def _seen(self, study: Study, trial: FrozenTrial) -> set[Identity]:
        seen = set()
        for other in study.get_trials(deepcopy=False):
            if other.number == trial.number or other.state is TrialState.WAITING:
                continue
            point = self._tried.get(other.number)
            if point is None:
                point = identity_of(other, self._parameters)
                if other.state.is_finished():
                    self._tried[other.number] = point
            seen.add(point)
        return seen

    def _point(
        self,
        sampler: BaseSampler,
        study: Study,
        trial: FrozenTrial,
        space: dict[str, BaseDistribution],
        fixed: Mapping[str, Value],
    ) -> dict[str, Value]:
        """One point, as Optuna's own trial would ask for it key by key."""
        together = sampler.sample_relative(study, trial, space)
        point: dict[str, Value] = {}
        for parameter in self._parameters:
            key, kind = parameter.key, parameter.distribution
            if not parameter.applies(point):
                continue
            if key in fixed:
                point[key] = fixed[key]
            elif kind.single():
                point[key] = parameter.first()
            elif key in together:
                point[key] = together[key]
            else:
                point[key] = sampler.sample_independent(study, trial, key, kind)
        return point

    def _any_other(
        self, study: Study, trial: FrozenTrial, fixed: Mapping[str, Value], seen: set[Identity]
    ) -> dict[str, Value] | None:
        if count_points(self._parameters) is not None:
            left = [point for point in all_points(self._parameters) or () if identity(point) not in seen]
            left = [point for point in left if all(point.get(key, value) == value for key, value in fixed.items())]
            return random.Random(self._seed).choice(left) if left else None
        chance = RandomSampler(seed=self._seed)
        for _ in range(_TRIES):
            point = self._point(chance, study, trial, {}, fixed)
            if identity(point) not in seen:
                return point
        return None


def identity(point: Mapping[str, Value]) -> Identity:
    """Equal for two points that mean the same; the steps of a range may differ in a float's last digits."""
    return frozenset((key, f"{v:.12g}" if isinstance(v, float) else to_text(v)) for key, v in point.items())


def identity_of(trial: BaseTrial, parameters: Sequence[Parameter]) -> Identity:
    """The identity of the point that a trial tries."""
    return identity({item.key: trial.params[item.key] for item in parameters if item.key in trial.params})


def create_pruner(settings: Mapping[str, Any]) -> BasePruner:
    """The pruner that every process of a study builds alike.

    Raises:
        UserError: An unknown name or argument, or a value Optuna refuses.
    """
    name, arguments = _split("pruner", settings, PRUNERS)
    return _create(f"pruner={name}", PRUNERS[name].create, arguments)


def create_promotion(settings: Mapping[str, Any], objectives: Sequence[Objective], *, waits: bool) -> Promotion | None:
    """How trials are paused and promoted; None where the pruner ends them.

    Args:
        settings: The pruner's.
        objectives: What the study looks for.
        waits: Whether all trials begin before one is promoted, where the settings leave that open.

    Raises:
        UserError: As :func:`create_pruner`.
    """
    create_pruner(settings)
    name, arguments = _split("pruner", settings, PRUNERS)
    if name != _PROMOTING:
        return None
    if arguments.get("eager") is None:
        arguments = {**arguments, "eager": not waits}
    return Promotion(**arguments, maximize=objectives[0].maximize)


def check_choice(
    sampler: Mapping[str, Any],
    pruner: Mapping[str, Any],
    parameters: Sequence[Parameter],
    objectives: Sequence[Objective],
    repeat: bool = True,
) -> int | None:
    """Hold a sampler and a pruner to the space and the objectives.

    Returns:
        How many trials there can be: the number of points, if that is known and none may be tried again, else None.

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
    create_sampler(sampler, parameters, 0, 0)
    create_pruner(pruner)
    if kind.finite:
        return len(all_points(parameters) or ())
    return None if repeat else count_points(parameters)


def check_ordered(sampler: Mapping[str, Any], pruner: Mapping[str, Any]) -> None:
    """Hold a sampler and a pruner to an ordered study.

    Raises:
        UserError: One of them goes by more than the trials that it is shown.
    """
    name, _ = _split("sampler", sampler, SAMPLERS)
    stopper, _ = _split("pruner", pruner, PRUNERS)
    for word, known in ((f"sampler={name}", SAMPLERS[name].ordered), (f"pruner={stopper}", PRUNERS[stopper].ordered)):
        if not known:
            able = [key for key, kind in (SAMPLERS if word.startswith("sampler") else PRUNERS).items() if kind.ordered]
            raise UserError(
                f"{word} goes by what runs at the same time, and sweep.ordered=true",
                f"take one of {', '.join(able)}, or leave sweep.ordered out",
            )


def sees_results(sampler: Mapping[str, Any], pruner: Mapping[str, Any]) -> bool:
    """Whether what becomes of a trial depends on the results of others."""
    name, _ = _split("sampler", sampler, SAMPLERS)
    stopper, _ = _split("pruner", pruner, PRUNERS)
    return not (SAMPLERS[name].blind and PRUNERS[stopper].blind)


def constraint_notes(sampler: Mapping[str, Any], constraints: Sequence[Constraint]) -> list[str]:
    """What a user should know of how a sampler heeds constraints.

    Raises:
        UserError: It would go after points that break them.
    """
    name, _ = _split("sampler", sampler, SAMPLERS)
    kind = SAMPLERS[name]
    if not constraints or kind.constrained:
        return []
    if not kind.blind:
        raise UserError(f"sampler={name} knows no constraints", "take sampler=tpe, gp, nsga2 or nsga3")
    return [f"sampler={name} draws without regard to sweep.constraints, which say what may be the best"]


def lists_all(sampler: Mapping[str, Any]) -> bool:
    """Whether the sampler tries every point of a finite space."""
    return SAMPLERS[_split("sampler", sampler, SAMPLERS)[0]].finite


def is_pruning(pruner: Mapping[str, Any]) -> bool:
    """Whether the pruner ever ends a trial early."""
    return not isinstance(create_pruner(pruner), pruners.NopPruner)


def _split(what: str, settings: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name = str(settings.get("name"))
    if name not in known:
        raise UserError(f"{what}={name} does not exist", nearest(name, known))
    return name, {str(key): value for key, value in settings.items() if key != "name" and value is not None}


@functools.cache
def _parameters_of(kind: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a class or function takes; it is asked for every trial, and looked up once."""
    return inspect.signature(kind).parameters


def _create(what: str, kind: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    accepted = _parameters_of(kind)
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
