"""Typed options: dataclass fields that say which values they take, and the check that holds them to it.

Each room owns the dataclasses it reads; the command line's configuration is made of them. Knows no Hydra.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from deepfake.errors import UserError, nearest

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers a field takes: ``low <= value <= high``, and ``value > above``."""

    low: float | None = None
    high: float | None = None
    above: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )

    def __str__(self) -> str:
        parts = []
        if self.above is not None:
            parts.append(f"above {_plain(self.above)}")
        if self.low is not None:
            parts.append(f"at least {_plain(self.low)}")
        if self.high is not None:
            parts.append(f"at most {_plain(self.high)}")
        return " and ".join(parts) or "a finite number"

    def closest(self, value: float) -> str:
        """The nearest number inside, or a description where there is no nearest one."""
        if self.high is not None and value > self.high:
            return _plain(self.high)
        if self.low is not None and value < self.low:
            return _plain(self.low)
        return str(self)


#: Beyond what anybody means: of steps and samples, of a layer's width, and of real numbers (single precision ends at
#: 3e38). What is larger is a slip of the hand, and would fill the memory or never end.
MOST, WIDEST, LARGEST = 1_000_000_000, 65_536, 1e30


def _plain(number: float) -> str:
    """As it may be typed for a whole number too: without an exponent, but where it is longer than anybody reads."""
    return f"{number:.0f}" if number == int(number) and abs(number) < 1e15 else f"{number:g}"


def ranged(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    words: Sequence[str] = (),
) -> Any:
    """A dataclass field that holds a number (or a list of numbers, or None) within a range, or one of ``words``."""
    metadata = {"range": Range(low, high, above), "words": tuple(words)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def chosen(default: str | list[str], choices: Iterable[str]) -> Any:
    """A dataclass field that holds one of a few words, or a list of some of them."""
    metadata = {"choices": tuple(choices)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def environment(default: Any, *, of_data: bool = False) -> Any:
    """A dataclass field that says where things lie or how the machine is used: a run is the same whatever it holds.

    Args:
        default: The field's default, or a field made by :func:`ranged`, :func:`chosen` or ``dataclasses.field``.
        of_data: Whether it says where data or weights lie: the same are told by their digests, wherever that is.
    """
    field = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
    marked = {**field.metadata, "environment": "data" if of_data else "machine"}
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory, metadata=marked)
    return dataclasses.field(default=field.default, metadata=marked)


def literal(value: Any) -> Any:
    """Plain values as OmegaConf must be given them to hand the very same back: each ``${`` is escaped."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, Mapping):
        return {key: literal(inner) for key, inner in value.items()}
    return [literal(inner) for inner in value] if isinstance(value, list) else value


def typed(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A dataclass made of plain values, whose types OmegaConf checks and converts.

    Args:
        values: By the names of the dataclass's fields.
        where: The key that leads to it; errors name the key below it, which a field's metadata may spell (``key``).

    Raises:
        UserError: A value of a wrong type.
    """
    # Here, for data, models and training make such dataclasses and read no configuration.
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, ValidationError

    try:
        made: T = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), literal(values)))  # type: ignore[assignment]
        return made
    except (ValidationError, ConfigKeyError) as error:
        name = str(getattr(error, "full_key", None) or "")
        first = name.split(".")[0].split("[")[0]
        fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        key = (
            where if first not in fields else f"{where}.{fields[first].metadata.get('key', first)}{name[len(first) :]}"
        )
        raise UserError(
            f"{key}={values.get(first)!r} has the wrong type", _expected(kind, fields, name, key)
        ) from error


def _expected(kind: type[Any], fields: Mapping[str, dataclasses.Field[Any]], name: str, key: str) -> str:
    field = fields.get(name.split("[")[0])
    if field is None:
        return f"the keys are {', '.join(f'{key}.{one}' for one in fields)}"
    words = "".join(f" or {word}" for word in field.metadata.get("words", ()))
    return f"{key} takes {str(field.type).replace(' | ', ' or ')}{words}, such as {getattr(kind(), field.name)!r}"


def check(options: Any, where: str) -> None:
    """Hold a dataclass instance to the ranges and choices its fields declare.

    Args:
        options: An instance of a dataclass made with :func:`ranged` and :func:`chosen`.
        where: The key that leads to it, such as ``trainer``; errors name ``trainer.batch_size``.

    Raises:
        UserError: A value lies outside, with the nearest valid one in the hint.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        key = f"{where}.{field.name}" if where else field.name
        if value is None:
            continue
        if "range" in field.metadata:
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, str):
                    _check_word(key, number, field.metadata)
                else:
                    _check_range(key, number, field.metadata["range"])
        if "choices" in field.metadata:
            _check_choice(key, value, field.metadata["choices"])
        if dataclasses.is_dataclass(value):
            check(value, key)


def split_override(text: str) -> tuple[str, str]:
    """The key and the value of ``key=value`` as it was typed, without ``+``, ``++`` or ``~`` before it.

    >>> split_override("+dataset.root=/a=b")
    ('dataset.root', '/a=b')
    """
    key, _, value = text.lstrip("+~").partition("=")
    return key, value


#: What Hydra reads as a word when it stands without quotes.
_WORD = re.compile(r"[A-Za-z_/][\w/.-]*")
_NO_WORDS = ("null", "true", "false", "nan", "inf")


def override_value(value: object) -> str:
    """A plain value as Hydra's grammar of overrides writes it: it comes back as the very same, whatever it holds.

    Args:
        value: A text, number, truth value, path, None, or a list or mapping of such.

    Raises:
        UserError: Anything else, or a key of a mapping that the grammar cannot write.

    >>> override_value(["a b", 1e-3, None])
    "['a b',0.001,null]"
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    if isinstance(value, (str, os.PathLike)):
        return _quoted(os.fspath(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_override_key(key)}:{override_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(override_value, value)) + "]"
    raise UserError(
        f"{value!r} ({type(value).__name__}) is no value of a key", "give a text, a number, a path, a list or a dict"
    )


def _quoted(text: str) -> str:
    if _WORD.fullmatch(text) and text.lower() not in _NO_WORDS:
        return text
    # To Hydra a backslash is one, but before a quote and at the end; OmegaConf reads what is left.
    text = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), str(literal(text)))
    return f"'{text}'"


def _override_key(key: object) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.-]*", str(key)):
        raise UserError(f"{key!r} is no key that an override can write", "use letters, digits, _, - and .")
    return str(key)


def overrides_by_key(texts: Iterable[str]) -> dict[str, str]:
    """The value, as it was typed, of every key that is given one; of two the later."""
    return dict(split_override(text) for text in texts if "=" in text)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as one dict of dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def is_under(key: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted key is one of these, or lies below one."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _check_choice(key: str, value: object, choices: Sequence[str]) -> None:
    # YAML reads the words true and false as truth values.
    words = value if isinstance(value, (list, tuple)) else [str(value).lower() if isinstance(value, bool) else value]
    for word in words:
        if word not in choices:
            raise UserError(f"{key}={value!r} is not a choice", nearest(word, choices))
    if not words or len(set(words)) < len(words):
        raise UserError(f"{key}={value!r} is no choice", f"name one or more of {', '.join(choices)}, each once")


def _check_word(key: str, word: str, metadata: Mapping[str, Any]) -> None:
    if word not in metadata["words"]:
        allowed = " or ".join([*map(repr, metadata["words"]), f"a number {metadata['range']}"])
        raise UserError(f"{key}={word!r} is not a choice", f"{key} must be {allowed}")


def _check_range(key: str, number: float, allowed: Range) -> None:
    if number not in allowed:
        raise UserError(f"{key}={number} is out of range", f"{key} must be {allowed}; try {allowed.closest(number)}")
