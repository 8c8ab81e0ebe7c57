"""What is searched: parameters, their distributions, and the grammar they are typed in."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep, Sweep, Transformer
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from deepfake.compat import swept_value
from deepfake.errors import UserError, nearest

#: Beyond this, all points of a space are not counted: no study tries them all.
_MANY = 100_000
_GRAMMAR = "write choice(a,b), range(1,5), interval(0.1,0.9), tag(log, interval(1e-5,1e-2)) or int(interval(1,9))"

#: Before each condition in what a study records of a parameter.
_WHEN = " when "

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
        conditions = "".join(f"{_WHEN}{key} in {', '.join(sorted(v))}" for key, v in sorted(self.when.items()))
        return distribution_to_json(self.distribution) + conditions

    @staticmethod
    def described(key: str, text: str, others: Mapping[str, Parameter]) -> Parameter:
        """A parameter by what :meth:`describe` said of it.

        Args:
            others: Those that it may depend on, by key.
        """
        plain, end = json.JSONDecoder().raw_decode(text)
        distribution = json_to_distribution(json.dumps(plain))
        when = {}
        for condition in text[end:].split(_WHEN)[1:]:
            parent, _, allowed = condition.partition(" in ")
            values = others[parent].values() if parent in others else None
            texts = (
                allowed.split(", ")
                if values is None
                else [one for one in map(to_text, values) if one in allowed.split(", ")]
            )
            when[parent] = tuple(texts)
        return Parameter(key, _spelled(distribution), distribution, when)


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


def is_whole(parameters: Sequence[Parameter], point: Mapping[str, Value]) -> bool:
    """Whether a point has a value for every parameter that applies."""
    return all(parameter.key in point for parameter in parameters if parameter.applies(point))


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


def parse_space(params: Mapping[str, Any], swept: Sequence[Override], fixed: Mapping[str, str]) -> list[Parameter]:
    """The parameters of ``sweep.params`` and of the command line, which wins.

    Args:
        params: Key to text in Hydra's grammar, or to ``{space: text, when: {key: values}}``.
        swept: The command line's sweeping overrides.
        fixed: What the command line and the config set for other keys; a key of ``params`` that is set on the
            command line is not swept (the caller leaves it out), a condition on a fixed key is settled here.

    Returns:
        Unconditional parameters first, each list in the order written.

    Raises:
        UserError: Text that is no space, an empty or upside-down one, or a condition on an unknown key.
    """
    on_command_line = {override.get_key_element(): override for override in swept}
    entries = {str(key): _entry(str(key), value) for key, value in params.items() if key not in on_command_line}
    parameters = []
    for key, (text, when) in entries.items():
        settled = {name: allowed for name, allowed in when.items() if name in entries or name in on_command_line}
        if _holds({name: allowed for name, allowed in when.items() if name not in settled}, fixed, key):
            parameters.append(Parameter(key, text, _distribution(_parse(key, text)), settled))
    for key, override in on_command_line.items():
        parameters.append(Parameter(key, override.get_value_string(), _distribution(override)))
    return sorted(parameters, key=lambda parameter: bool(parameter.when))


def _entry(key: str, value: Any) -> tuple[str, dict[str, tuple[str, ...]]]:
    if not isinstance(value, Mapping):
        return _as_text(value), {}
    unknown = [name for name in value if name not in ("space", "when")]
    when = value.get("when") or {}
    if unknown or "space" not in value or not isinstance(when, Mapping):
        raise UserError(
            f"sweep.params.{key} has keys {sorted(map(str, value))}",
            "write {space: choice(1,2), when: {model: [cnn_vit]}}",
        )
    allowed = {str(name): tuple(map(_as_text, v if isinstance(v, list) else [v])) for name, v in when.items()}
    return _as_text(value["space"]), allowed


def _as_text(value: Any) -> str:
    # A YAML list is a choice; a YAML scalar stands for itself.
    if isinstance(value, list):
        return "choice(" + ",".join(map(_as_text, value)) + ")"
    return value if isinstance(value, str) else to_text(value)


def _spelled(kind: BaseDistribution) -> str:
    """A distribution in the grammar it is typed in."""
    if isinstance(kind, CategoricalDistribution):
        return f"choice({','.join(map(to_text, kind.choices))})"
    assert isinstance(kind, (IntDistribution, FloatDistribution))
    if kind.step is not None and (kind.step != 1 or isinstance(kind, FloatDistribution)):
        return f"range({kind.low},{kind.high},{kind.step}), its end included"
    text = f"interval({kind.low},{kind.high})"
    return f"tag(log, {text})" if kind.log else text


def _holds(when: Mapping[str, tuple[str, ...]], fixed: Mapping[str, str], key: str) -> bool:
    for name, allowed in when.items():
        if name not in fixed:
            raise UserError(f"sweep.params.{key} applies when {name!r} is {allowed}", nearest(name, fixed))
        if fixed[name] not in allowed:
            return False
    return True


def _parse(key: str, text: str) -> Override:
    # Hydra's choice() takes no null; the same values without the word do.
    values = re.fullmatch(r"\s*choice\((.*\bnull\b.*)\)\s*", text, re.DOTALL)
    try:
        return OverridesParser.create().parse_override(f"{key}={values[1] if values else text}")
    except Exception as error:
        raise UserError(f"sweep.params.{key}={text!r} cannot be read", _GRAMMAR) from error


def _distribution(override: Override) -> BaseDistribution:
    swept = swept_value(override)
    text = f"{override.get_key_element()}={override.get_value_string()}"
    if isinstance(swept, Glob):
        raise UserError(f"{text} is a pattern, not a space", "name the choices: choice(a,b)")
    if isinstance(swept, IntervalSweep):
        return _interval(swept, text)
    if isinstance(swept, RangeSweep):
        return _range(swept, text)
    if isinstance(swept, ChoiceSweep):
        _check_tags(swept, text)
        if "log" in swept.tags:
            raise UserError(
                f"{text} is a logarithmic choice", "write tag(log, interval(low, high)), or leave the tag out"
            )
        values = [_choice(value) for value in swept.list]
    elif not isinstance(swept, Sweep):
        values = [_choice(swept)]
    if not values or len({to_text(value) for value in values}) != len(values):
        raise UserError(f"{text} names no value, or one twice", "name each value once")
    return CategoricalDistribution(values)


def _interval(swept: IntervalSweep, text: str) -> BaseDistribution:
    low, high = swept.start, swept.end
    assert low is not None
    assert high is not None
    if not low < high:
        raise UserError(f"{text} is upside down or empty", f"write interval({high},{low})")
    log = _is_log(swept, low, text)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _range(swept: RangeSweep, text: str) -> BaseDistribution:
    if not swept.step:
        raise UserError(f"{text} has a step of 0", "write range(start, stop, step) with a step above 0")
    values = list(swept.range())
    if not values:
        raise UserError(f"{text} is upside down or empty", "write range(start, stop, step) with start below stop")
    low, high = min(values), max(values)
    log = _is_log(swept, low, text)
    if isinstance(low, int) and isinstance(high, int):
        if log and abs(swept.step) != 1:
            raise UserError(f"{text} has a step and is logarithmic", "leave the step out, or name the values")
        return IntDistribution(low, high, step=abs(int(swept.step)), log=log)
    if log:
        raise UserError(f"{text} has a step and is logarithmic", "write tag(log, interval(low, high))")
    if low == high:
        return CategoricalDistribution([low])
    return FloatDistribution(low, high, step=abs(float(swept.step)))


def _check_tags(swept: Sweep, text: str) -> None:
    unknown = swept.tags - {"log"}
    if unknown:
        raise UserError(f"{text} has the tag {sorted(unknown)[0]!r}", nearest(sorted(unknown)[0], ["log"]))


def _is_log(swept: Sweep, low: float, text: str) -> bool:
    _check_tags(swept, text)
    if "log" in swept.tags and low <= 0:
        raise UserError(f"{text} is logarithmic from {low:g}", "a logarithmic space begins above 0")
    return "log" in swept.tags


def _choice(value: Any) -> Value:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(Transformer.str(value))
