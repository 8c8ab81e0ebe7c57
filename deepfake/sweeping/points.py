"""Points that somebody types, held to the space of a study. Knows no study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from deepfake.errors import UserError, nearest
from deepfake.options import split_override
from deepfake.sweeping.search_space import Parameter, Value
from deepfake.sweeping.warm_start import fit

#: The word that names a trial to take the rest of a point from.
LIKE = "like"


def typed_point(
    words: Sequence[str], parameters: Sequence[Parameter], point_of: Callable[[str], Mapping[str, Value]]
) -> dict[str, Value]:
    """A point as it was typed.

    Args:
        words: ``key=value`` each; ``like=3`` takes the rest from trial 3, as far as it applies.
        parameters: The space.
        point_of: The point of a trial, by what was typed of it.

    Returns:
        The values that are settled, in the order of the space.

    Raises:
        UserError: No point, an unknown key, a value outside the space, or one that does not apply.
    """
    known = {item.key: item for item in parameters}
    if not words:
        raise UserError("add names no point", f"write add {parameters[0].key}=…, or add {LIKE}=TRIAL")
    typed: dict[str, Value] = {}
    cloned: Mapping[str, Value] = {}
    for word in words:
        if "=" not in word:
            raise UserError(f"{word!r} is no value of a point", "write key=value")
        key, text = split_override(word)
        if key == LIKE and LIKE not in known:
            cloned = point_of(text)
        elif key not in known:
            raise UserError(f"add sets {key!r}, which is not swept", nearest(key, known))
        elif key in typed:
            raise UserError(f"add sets {key!r} twice", "write it once")
        else:
            typed[key], inside = fit(known[key], text)
            if not inside:
                raise UserError(
                    f"add sets {key}={text}, which lies outside {known[key].text}", "take one of its values"
                )
    point: dict[str, Value] = {}
    for item in parameters:
        if not item.applies(point):
            if item.key in typed:
                needs = " and ".join(f"{key}={' or '.join(allowed)}" for key, allowed in item.when.items())
                raise UserError(
                    f"add sets {item.key}, which applies only beside {needs}", "add that as well, or leave it out"
                )
        elif item.key in typed or item.key in cloned:
            point[item.key] = typed.get(item.key, cloned.get(item.key))
    return point
