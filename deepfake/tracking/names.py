"""What runs and sweeps are called: by what was chosen for them, with numbers as people write them.

Knows keys and texts only. A name can be typed where a run is asked for: it holds nothing that means something there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

#: Longer names are cut: they head columns and stand beside bars.
_LONGEST, _LONGEST_VALUE = 120, 40
#: What is said of a run first.
_FIRST = ("model", "backbone", "head", "optimizer.lr", "trainer.batch_size")
#: What people call a key; others by their last part.
_CALLED = {"trainer.batch_size": "batch"}
#: Last parts that say nothing without what is before them.
_VAGUE = ("name", "seed", "size", "weights", "cached", "root")
#: More models than these are counted, not listed.
_LISTED = 3
_DIGITS = 6


def run_name(base: str, chosen: Mapping[str, str], swept: Collection[str] = ()) -> str:
    """What one run of a sweep is called, such as ``cnn_gru lr=3e-4 batch=32``.

    Args:
        base: Its config's name; a model brings one that says which it is.
        chosen: What the sweep chose for it: key to value as it was typed.
        swept: Every key of the sweep, where others have more.
    """
    given = {key: text for key, text in chosen.items() if not (key == "model" and plain(text) == base)}
    called = short_keys([*swept, *given])
    parts = [base, *(f"{called[key]}={_inside(text)}" for key, text in _in_order(given).items())]
    return _cut(" ".join(filter(None, parts)))


def grid_name(space: Mapping[str, str]) -> str:
    """What a grid is called, such as ``model=cnn_lstm,cnn_gru``.

    Args:
        space: Each swept key and what it is swept over.
    """
    called = short_keys(space)
    return _cut(" ".join(f"{called[key]}={_inside(text, _LONGEST)}" for key, text in space.items()))


def study_name(search: str | None, model: str, space: Mapping[str, str], total: int | None) -> str:
    """What a study is called, such as ``lr_batch: cnn_gru, 20 trials``.

    Args:
        search: The choice of ``search=``; None names what is searched instead.
        model: Which model is trained, where that is not searched.
        space: Each searched key and its space.
        total: How many trials there are to be; None where that is open.
    """
    called = short_keys(space)
    what = search or ",".join(name for key, name in called.items() if key != "model") or "model"
    models = re.findall(r"\w+", re.sub(r"^choice\b", "", space["model"])) if "model" in space else [model]
    which = ",".join(models) if len(models) <= _LISTED else f"{len(models)} models"
    trials = [] if total is None else [f"{total} trial{'s' if total != 1 else ''}"]
    return _cut(f"{what}: {', '.join([which, *trials])}")


def short_keys(keys: Collection[str]) -> dict[str, str]:
    """What each key is called beside the others: its last part where that says enough.

    >>> short_keys(["optimizer.lr", "backbone.lr", "trainer.batch_size", "backbone.name"])
    {'optimizer.lr': 'lr', 'backbone.lr': 'backbone.lr', 'trainer.batch_size': 'batch', 'backbone.name': 'backbone'}
    """
    called: dict[str, str] = {}
    # The optimizer's rate is what people call the rate.
    for key in sorted(dict.fromkeys(keys), key=lambda key: not key.startswith("optimizer.")):
        before, _, last = key.rpartition(".")
        name = _CALLED.get(key, before if last == "name" and before else key if last in _VAGUE else last)
        called[key] = key if name in called.values() else name
    return {key: called[key] for key in keys}


def number(value: float) -> str:
    """A number as people write it, to three digits.

    >>> number(0.00031244), number(0.0003), number(0.02), number(32.0), number(1250000.0)
    ('3.12e-4', '3e-4', '0.02', '32', '1.25e6')
    """
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1e3 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def param_text(value: object) -> str:
    """A parameter as MLflow shows it: real numbers to six digits, anything else as it is.

    >>> param_text(0.00031244523411), param_text(0.002), param_text(0.0), param_text(16)
    ('0.000312445', '0.002', '0.0', '16')
    """
    return str(float(f"{value:.{_DIGITS}g}")) if isinstance(value, float) else str(value)


def plain(text: str) -> str:
    """A value as it was typed, without the quotes that Hydra needed."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _in_order(chosen: Mapping[str, str]) -> dict[str, str]:
    first: Sequence[str] = [key for key in _FIRST if key in chosen]
    return {key: chosen[key] for key in [*first, *(key for key in chosen if key not in first)]}


def _inside(text: str, longest: int = _LONGEST_VALUE) -> str:
    """A value within a name: rounded where it is a rate, the last part where it is a path."""
    text = re.sub(r"(['\"])([^'\",]*)\1", r"\2", plain(text))
    if re.fullmatch(r"-?\d+\.\d+(e[+-]?\d+)?|-?\d+(\.\d+)?e[+-]?\d+", text):
        return number(float(text))
    # A colon and a number would name a trial, and the ending of a file a file.
    text = re.sub(r"\.ya?ml$", "", text.rsplit("/", 1)[-1] if "," not in text else text).replace(":", ".")
    text = re.sub(r"[\"`\s\x00-\x1f]+", " ", text).strip()
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
