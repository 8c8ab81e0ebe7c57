"""What a user can say about many runs: the ``sweep.*`` keys."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepfake.errors import UserError, nearest
from deepfake.options import check, chosen, ranged
from deepfake.sweeping.observer import Objective

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ALIASES = {"from": "source"}


@dataclass
class SweepOptions:
    """How a sweep chooses its runs, how many, where it remembers them, and when it stops.

    ``source`` is written ``from`` in configs: another study whose best points are tried first.
    """

    # None: the search file's name, or one made of the space.
    name: str | None = None
    # Key to what it is swept over, in Hydra's override grammar; or {space: ..., when: {key: [values]}}.
    params: dict[str, Any] = field(default_factory=dict)
    # The study's total, over all starts; None: every point of a grid, 20 otherwise.
    n_trials: int | None = ranged(None, low=1)
    n_jobs: int = ranged(1, low=1, high=1024)
    objective: str | list[str] = "val/roc_auc"
    direction: str | list[str] = "maximize"
    # journal or sqlite (a file in the sweep's folder), a path, or any URL SQLAlchemy reads.
    storage: str = "journal"
    # Seconds, or 90s, 30m, 2h, 1d: no trial starts after it; running ones end.
    timeout: str | float | None = None
    # This many failed trials in a row stop the sweep; None never does.
    max_failures: int | None = ranged(5, low=1)
    # How often a trial whose process died with the whole sweep is taken up again.
    retries: int = ranged(3, low=0)
    enqueue: list[Any] = field(default_factory=list)
    source: str | None = None
    seed: int = ranged(0, low=0, high=2**31)
    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "tpe"})
    pruner: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    # What the end shows: the best trial, or the mean and spread over all of them (seeds).
    report: str = chosen("best", ("best", "spread"))
    # Seconds between signs of life of a trial's process; three missed ones mean it is dead.
    heartbeat: float = ranged(30.0, low=0.1, high=3600)
    # Keys that may differ between two starts of one study without changing what a trial means.
    volatile: list[str] = field(
        default_factory=lambda: [
            "tracking",
            "paths",
            "name",
            "trainer.num_workers",
            "trainer.accelerator",
            "trainer.devices",
            "dataset.workers",
        ]
    )

    @property
    def objectives(self) -> list[Objective]:
        """The metrics to improve with their directions, in order."""
        metrics = [self.objective] if isinstance(self.objective, str) else list(self.objective)
        ways = [self.direction] if isinstance(self.direction, str) else list(self.direction)
        if len(ways) == 1:
            ways = ways * len(metrics)
        if not metrics or len(ways) != len(metrics):
            raise UserError(
                f"sweep.direction={ways} does not match sweep.objective={metrics}",
                "give one direction (maximize or minimize) for each objective",
            )
        for way in ways:
            if way not in ("maximize", "minimize"):
                raise UserError(f"sweep.direction={way!r} is not a choice", nearest(way, ("maximize", "minimize")))
        if len(set(metrics)) != len(metrics):
            raise UserError(f"sweep.objective={metrics} names a metric twice", "name each objective once")
        return [Objective(metric, way == "maximize") for metric, way in zip(metrics, ways, strict=True)]

    @property
    def timeout_seconds(self) -> float | None:
        """The timeout in seconds."""
        return None if self.timeout is None else parse_seconds(self.timeout, "sweep.timeout")


def load_options(node: Mapping[str, Any] | None) -> SweepOptions:
    """The ``sweep`` node of a composed config, typed and checked.

    Raises:
        UserError: An unknown key, a wrong type or a value out of range.
    """
    fields = {item.name: item for item in dataclasses.fields(SweepOptions)}
    shown = {name: alias for alias, name in _ALIASES.items()}
    given: dict[str, Any] = {}
    for key, value in (node or {}).items():
        name = _ALIASES.get(key, key)
        if name not in fields or key in shown:
            raise UserError(
                f"unknown key 'sweep.{key}'", nearest(f"sweep.{key}", [f"sweep.{shown.get(k, k)}" for k in fields])
            )
        given[name] = value
    options = SweepOptions(
        **{key: value for key, value in given.items() if value is not None or _optional(fields[key])}
    )
    for name in fields:
        _check_type(f"sweep.{shown.get(name, name)}", getattr(options, name), str(fields[name].type))
    check(options, "sweep")
    _ = options.objectives, options.timeout_seconds
    return options


def parse_seconds(value: str | float, key: str) -> float:
    """``2h``, ``90m``, ``30s``, ``1d`` or a plain number of seconds.

    Raises:
        UserError: Neither, or not above zero.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", str(value))
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if seconds <= 0:
        raise UserError(f"{key}={value!r} is not a time", "write 90s, 30m, 2h or a number of seconds above 0")
    return seconds


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "None": (type(None),),
    "list": (list,),
    "dict": (dict,),
}


def _check_type(key: str, value: Any, annotation: str) -> None:
    words = [part.strip().split("[")[0] for part in annotation.split(" | ")]
    allowed = tuple(kind for word in words for kind in _KINDS[word])
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise UserError(f"{key}={value!r} has the wrong type", f"{key} takes {' or '.join(words)}")


def _optional(item: dataclasses.Field[Any]) -> bool:
    return "None" in str(item.type)
