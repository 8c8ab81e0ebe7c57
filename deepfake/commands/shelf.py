"""What a process keeps from one trial for the next: data sets, weights, features. Knows nothing of what they are."""

from __future__ import annotations

import functools
import gc
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from deepfake.config import RunConfig

T = TypeVar("T")

#: Of each kind; a head sweep goes to and fro between two clip plans and two taps.
_KEPT = 2


class Shelf:
    """The newest few things of each kind, by what they were made from.

    Whoever makes a shelf owns what lies on it: a single run makes one of its own, the trials of a sweep share that of
    their process (:func:`of_process`), and all on it goes with the process.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, OrderedDict[str, Any]] = {}
        self._said: set[str] = set()

    def take(self, kind: str, key: str, make: Callable[[], T]) -> T:
        """The thing of this kind and key; made, and kept in place of the one longest unused, where it is not there."""
        shelf = self._kinds.setdefault(kind, OrderedDict())
        if key not in shelf:
            # Room first: what is made may need the memory of what goes.
            while len(shelf) >= _KEPT:
                shelf.popitem(last=False)
            shelf[key] = make()
        shelf.move_to_end(key)
        kept: T = shelf[key]
        return kept

    def first(self, text: str) -> bool:
        """Whether this is the first run of those that share the shelf to say this."""
        new = text not in self._said
        self._said.add(text)
        return new

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever asked of it."""
        return not self._kinds


@functools.cache
def settle_heap() -> None:
    """Once, in a process that goes on to a second trial: no later garbage collection walks what is imported by now.

    Each full one would take half a second, for objects that live as long as the process.
    """
    gc.collect()
    gc.freeze()


@functools.cache
def of_process() -> Shelf:
    """The shelf that the trials of this process share."""
    return Shelf()


def samples_key(config: RunConfig) -> str:
    """What a manifest depends on."""
    return json.dumps([asdict(config.dataset), asdict(config.demo), str(config.cache)], sort_keys=True, default=str)


def clips_key(config: RunConfig) -> str:
    """What prepared clips and their random changes depend on."""
    changed = [asdict(config.augment), config.seed, config.head.temporal]
    return samples_key(config) + json.dumps(changed, sort_keys=True)
