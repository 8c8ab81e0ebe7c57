"""What each swept key may be and when it applies, the points that makes, and a point as overrides.

Knows Optuna's distributions; neither how a space is written (``grammar``) nor who chooses from it (``study``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

#: Beyond this, all points of a space are not counted: no study tries them all.
_MANY = 100_000

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Parameter:
    """One key, what it may be, and the choices of other keys with which it applies.

    Attributes:
        key: As in an override, ``optimizer.lr`` or the group ``model``.
        text: What the user wrote.
        when: Other parameters' keys to the values (as override text) that make this one apply.
    """

    key: str
    text: str
    distribution: BaseDistribution
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def applies(self, chosen: Mapping[str, Value]) -> bool:
        """Whether it applies beside what is already chosen."""
        return all(key in chosen and to_text(chosen[key]) in allowed for key, allowed in self.when.items())

    def suggest(self, trial: optuna.trial.BaseTrial) -> Value:
        """Ask a trial for this key's value."""
        kind = self.distribution
        if isinstance(kind, CategoricalDistribution):
            return trial.suggest_categorical(self.key, kind.choices)
        if isinstance(kind, IntDistribution):
            return trial.suggest_int(self.key, kind.low, kind.high, step=kind.step, log=kind.log)
        assert isinstance(kind, FloatDistribution)
        return trial.suggest_float(self.key, kind.low, kind.high, step=kind.step, log=kind.log)

    def values(self) -> list[Value] | None:
        """All values in order, or None for a continuous interval."""
        kind = self.distribution
        if isinstance(kind, CategoricalDistribution):
            return list(kind.choices)
        if isinstance(kind, IntDistribution):
            return list(range(kind.low, kind.high + 1, kind.step))
        assert isinstance(kind, FloatDistribution)
        if kind.step is None:
            return None
        return [kind.low + kind.step * i for i in range(round((kind.high - kind.low) / kind.step) + 1)]

    def values_count(self) -> int | None:
        """How many values there are, or None for a continuous interval."""
        kind = self.distribution
        if isinstance(kind, CategoricalDistribution):
            return len(kind.choices)
        if isinstance(kind, IntDistribution):
            return (kind.high - kind.low) // kind.step + 1
        assert isinstance(kind, FloatDistribution)
        return None if kind.step is None else round((kind.high - kind.low) / kind.step) + 1

    def first(self) -> Value:
        """Any valid value."""
        values = self.values()
        return values[0] if values else getattr(self.distribution, "low")  # noqa: B009 - the base class has none

    def describe(self) -> str:
        """Equal for two parameters that mean the same."""
        conditions = "".join(f" when {key} in {', '.join(sorted(v))}" for key, v in sorted(self.when.items()))
        return distribution_to_json(self.distribution) + conditions


def to_text(value: Value) -> str:
    """A chosen value in override grammar."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_overrides(chosen: Mapping[str, Value]) -> list[str]:
    """A point as overrides."""
    return [f"{key}={to_text(value)}" for key, value in chosen.items()]


def choose(parameters: Sequence[Parameter], trial: optuna.trial.BaseTrial) -> dict[str, Value]:
    """Ask a trial for every parameter that applies."""
    chosen: dict[str, Value] = {}
    for parameter in parameters:
        if parameter.applies(chosen):
            chosen[parameter.key] = parameter.suggest(trial)
    return chosen


def all_points(parameters: Sequence[Parameter]) -> list[dict[str, Value]] | None:
    """Every distinct point of a finite space, or None for a continuous one."""
    if any(parameter.values() is None for parameter in parameters):
        return None
    return list(_points(parameters, {}))


def count_points(parameters: Sequence[Parameter]) -> int | None:
    """How many distinct points there are, or None for a continuous space or one of very many."""
    values = [parameter.values_count() for parameter in parameters]
    most = math.prod(count or 0 for count in values)
    if None in values or most > _MANY:
        return None
    return sum(1 for _ in _points(parameters, {})) if any(item.when for item in parameters) else most


def example_points(parameters: Sequence[Parameter], groups: Sequence[str]) -> Iterator[dict[str, Value]]:
    """Points that together meet every condition, and every choice of the keys in ``groups``."""
    seen: list[dict[str, Value]] = []
    wishes: list[dict[str, Value]] = [{}]
    for parameter in parameters:
        wishes += [{parameter.key: value} for value in parameter.values() or () if parameter.key in groups]
        options = [[(key, value) for value in allowed] for key, allowed in parameter.when.items()]
        wishes += [dict(pairs) for pairs in itertools.product(*options)] if options else []
    for wish in wishes:
        point: dict[str, Value] = {}
        for parameter in parameters:
            if parameter.applies(point):
                point[parameter.key] = wish.get(parameter.key, parameter.first())
        if point not in seen:
            seen.append(point)
            yield point


def _points(parameters: Sequence[Parameter], chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
    if not parameters:
        yield chosen
        return
    head, *rest = parameters
    for value in (head.values() or []) if head.applies(chosen) else [...]:
        yield from _points(rest, chosen if value is ... else {**chosen, head.key: value})
