"""Hydra's override grammar to the parameters of a space.

Knows how spaces are written, in ``sweep.params`` and on the command line; nothing of who chooses from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    RangeSweep,
    Sweep,
    Transformer,
)
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from deepfake.errors import UserError, nearest
from deepfake.sweeping.space import Parameter, Value, to_text

_GRAMMAR = "write choice(a,b), range(1,5), interval(0.1,0.9), tag(log, interval(1e-5,1e-2)) or int(interval(1,9))"


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


def _holds(when: Mapping[str, tuple[str, ...]], fixed: Mapping[str, str], key: str) -> bool:
    for name, allowed in when.items():
        if name not in fixed:
            raise UserError(f"sweep.params.{key} applies when {name!r} is {allowed}", nearest(name, fixed))
        if fixed[name] not in allowed:
            return False
    return True


def _parse(key: str, text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(f"{key}={text}")
    except Exception as error:
        raise UserError(f"sweep.params.{key}={text!r} cannot be read", _GRAMMAR) from error


def _distribution(override: Override) -> BaseDistribution:
    swept = override._value
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
