"""The options of many runs: the ``sweep.*`` keys, and the keys of other sweepers that stand for them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from deepfake.errors import UserError, nearest
from deepfake.options import MOST, check, chosen, ranged, typed
from deepfake.sweeping.callbacks import Objective
from deepfake.sweeping.constraints import parse_constraints
from deepfake.sweeping.stopping import parse_rule

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: Keys of hydra-optuna-sweeper, as ``hydra.sweeper.<key>``, and the key of ``sweep`` that says the same.
_OPTUNA = {"n_trials": "n_trials", "n_jobs": "n_jobs", "direction": "direction", "study_name": "name"}
_OPTUNA |= {"storage": "storage", "sampler": "sampler", "max_failure_rate": "max_failures"}
#: Its words, and Optuna's own, for what has another name here.
_MEANT = {
    "study_name": "sweep.name",
    "sampler": "sampler",
    "pruner": "pruner",
    "max_failure_rate": "sweep.max_failures",
    "search_space": "sweep.params",
    "custom_search_space": "sweep.params",
    "space": "sweep.params",
    "metric": "sweep.objective",
    "metrics": "sweep.objective",
    "directions": "sweep.direction",
    "workers": "sweep.n_jobs",
    "max_batch_size": "sweep.n_jobs",
}
#: Hydra's basic sweeper and ours take these; they are read where they apply.
_OTHERS = ("params", "search_space", "custom_search_space", "max_batch_size", "observer")
#: What an app says of itself where ``sweep`` says nothing.
_OF_THE_APP = ("objective", "volatile", "places", "seed_key")
_CLASSES = {"nsgaii": "nsga2", "nsgaiii": "nsga3", "motpe": "tpe"}


@dataclass
class SweepOptions:
    """How a sweep chooses its runs, how many, where it remembers them, and when it stops.

    What may be one value or a list of them is ``Any``, for OmegaConf knows no unions of lists; it is checked here.
    """

    # None: the search file's name, or one made of the space.
    name: str | None = None
    # Key to what it is swept over, in Hydra's override grammar; or {space: ..., when: {key: [values]}}.
    params: dict[str, Any] = field(default_factory=dict)
    # The study's total, over all starts; None: every point of a grid, 20 otherwise.
    n_trials: int | None = ranged(None, low=1, high=MOST)
    # What all trials may spend over all starts: a number of epochs, or the hours that they run for, such as 4h. With
    # it n_trials is no limit unless it is given.
    budget: str | int | float | None = None
    n_jobs: int = ranged(1, low=1, high=1024)
    # Whether timing may decide nothing: a trial knows only those that are ``lag`` before it. None: as the study began.
    ordered: bool | None = None
    lag: int | None = ranged(None, low=1, high=MOST)
    # So many trials at a time in each worker, which train those of one head shape on stored features together.
    fuse: int = ranged(1, low=1, high=1024)
    # One or several. None: what the app calls it in hydra.sweeper.objective; "objective" where it does not.
    objective: Any = None
    direction: Any = "maximize"
    # What the best must keep, such as "latency_ms <= 20": a text or a list of them.
    constraints: Any = None
    # Over how many seeds each point is run; its value is their mean.
    repeats: int = ranged(1, low=1, high=100)
    # The key of the config that holds a run's seed; None: as the app says.
    seed_key: str | None = None
    # When to end before the total: ``terminator``, or words such as "20 trials without 0.001".
    stop_when: str | None = None
    # journal or sqlite (a file in the sweep's folder), a path, or any URL SQLAlchemy reads.
    storage: str = "journal"
    # Seconds, or 90s, 30m, 2h, 1d: no trial starts after it; running ones end.
    timeout: str | int | float | None = None
    # The same for one trial: one that runs longer is stopped, and has failed.
    trial_timeout: str | int | float | None = None
    # This many failed trials in a row stop the sweep; None never does.
    max_failures: int | None = ranged(5, low=1, high=MOST)
    # How often in a row a trial whose process died before another epoch was done is taken up again.
    retries: int = ranged(3, low=0, high=MOST)
    enqueue: list[Any] = field(default_factory=list)
    # Failed trials to try again: failed (all of them), a number or several.
    retry: Any = None
    # Whether a point that was tried may be tried again; by default training is taken to come out the same.
    repeat: bool = False
    # Other studies whose best points are tried first: one or a list of them.
    source: Any = field(default=None, metadata={"key": "from"})
    seed: int = ranged(0, low=0, high=2**31)
    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "tpe"})
    pruner: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    # What the end shows: the best trial, or the mean and spread over all of them (seeds).
    report: str = chosen("best", ("best", "spread"))
    # Seconds between signs of life of a trial's process; three missed ones mean it is dead.
    heartbeat: float = ranged(30.0, low=0.1, high=3600)
    # How many of the best trials are kept whole; of several objectives the Pareto front is, whatever this says.
    keep: int = ranged(3, low=1, high=MOST)
    # Keys that may differ between two starts of one study without changing what a trial means; None: as the app says.
    volatile: list[str] | None = None
    # The same for keys that say where data lies; a study that was given no name is named after them too.
    places: list[str] | None = None

    @property
    def environment(self) -> list[str]:
        """All keys that may differ between two starts of one study."""
        return [*(self.volatile or []), *(self.places or [])]

    @property
    def objectives(self) -> list[Objective]:
        """The metrics to improve with their directions, in order."""
        ways = _words("direction", self.direction)
        if self.objective is None:
            metrics = ["objective"] if len(ways) == 1 else [f"objective_{number}" for number in range(len(ways))]
        else:
            metrics = _words("objective", self.objective)
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
    def sources(self) -> list[str]:
        """The other studies to begin from."""
        return [] if self.source is None else list(dict.fromkeys(_words("from", self.source)))

    @property
    def timeout_seconds(self) -> float | None:
        """The timeout in seconds."""
        return None if self.timeout is None else parse_seconds(self.timeout, "sweep.timeout")

    @property
    def trial_timeout_seconds(self) -> float | None:
        """The time one trial may take, in seconds."""
        return None if self.trial_timeout is None else parse_seconds(self.trial_timeout, "sweep.trial_timeout")


#: The fields of the options by their keys in configs: another study whose best points are tried first is ``from``.
_KEYS = {item.metadata.get("key", item.name): item for item in dataclasses.fields(SweepOptions)}


def load_options(node: Mapping[str, Any] | None) -> SweepOptions:
    """The ``sweep`` node of a composed config, typed and checked.

    Raises:
        UserError: An unknown key, a wrong type or a value out of range.
    """
    given: dict[str, Any] = {}
    for key, value in (node or {}).items():
        if key not in _KEYS:
            raise UserError(f"unknown key 'sweep.{key}'", hint_for(f"sweep.{key}"))
        # Where null means nothing, it leaves the default.
        if value is not None or "None" in str(_KEYS[key].type):
            given[_KEYS[key].name] = value
    options = typed(SweepOptions, given, "sweep")
    check(options, "sweep")
    _check_retry(options.retry)
    _ = options.objectives, options.timeout_seconds, options.trial_timeout_seconds, options.sources
    _ = parse_constraints(options.constraints), parse_rule(options.stop_when)
    return options


def meant(key: str) -> str | None:
    """A hint that names the key which says what Optuna, or its sweeper for Hydra, calls this; None for others."""
    name = key.rpartition(".")[2]
    if name in _MEANT:
        return f"did you mean '{_MEANT[name]}'?"
    return f"did you mean 'sweep.{name}'?" if name in _KEYS and not key.startswith("sweep.") else None


def hint_for(key: str) -> str:
    """What an unknown key below ``sweep`` or ``hydra.sweeper`` was meant to be."""
    known = [f"sweep.{name}" for name in _KEYS]
    return meant(key) or nearest(f"sweep.{key.rpartition('.')[2]}", known)


def join_sweeper_keys(
    sweep: Mapping[str, Any], sweeper: Mapping[str, Any], typed: Collection[str]
) -> tuple[dict[str, Any], set[str]]:
    """The ``sweep`` node with what a config written for hydra-optuna-sweeper says below ``hydra.sweeper``.

    Args:
        sweep: The ``sweep`` node.
        sweeper: The ``hydra.sweeper`` node, without its ``_target_``.
        typed: Keys given on the command line, such as ``sweep.n_trials`` and ``hydra.sweeper.n_trials``; typed keys
            of ``sweep`` win over a file's keys of ``hydra.sweeper``, which win over a file's keys of ``sweep``.

    Returns:
        The joined node, and the names of those of its keys that came from ``hydra.sweeper``.

    Raises:
        UserError: A key or value with no counterpart, or one thing said twice on the command line.
    """
    joined = dict(sweep)
    asked = set()
    for key, value in sweeper.items():
        if key not in (*_OPTUNA, *_OTHERS, *_OF_THE_APP):
            raise UserError(f"unknown key 'hydra.sweeper.{key}'", hint_for(f"hydra.sweeper.{key}"))
        if value is None or key not in _OPTUNA:
            continue
        name = _OPTUNA[key]
        shown = name if name == "sampler" else f"sweep.{name}"
        if any(one == shown or one.startswith(f"{shown}.") for one in typed):
            if any(one.startswith(f"hydra.sweeper.{key}") for one in typed):
                raise UserError(f"hydra.sweeper.{key} and {shown} say the same", "give one of them")
            continue
        asked.add(name)
        if key == "sampler":
            joined["sampler"], seed = _sampler(value)
            joined |= {} if seed is None else {"seed": seed}
        else:
            joined[name] = _max_failures(value) if key == "max_failure_rate" else value
    if sweeper.get("custom_search_space") is not None:
        raise UserError(
            "hydra.sweeper.custom_search_space is a function, and a space is data here",
            "a key that applies only beside others: sweep.params.KEY={space: range(1,4), when: {OTHER: [a,b]}}",
        )
    for name in _OF_THE_APP:
        if joined.get(name) is None:
            joined[name] = sweeper.get(name)
    return joined, asked


def sweeper_space(sweeper: Mapping[str, Any]) -> dict[str, str]:
    """What ``hydra.sweeper.params``, or the older ``search_space``, sweeps: key to text in Hydra's grammar."""
    params = sweeper.get("params") or {}
    older = sweeper.get("search_space") or {}
    for where, node in (("params", params), ("search_space", older)):
        if not isinstance(node, Mapping):
            raise UserError(
                f"hydra.sweeper.{where}={node!r} is no space", "write a key and its space: {x: 'range(1,4)'}"
            )
    return {
        **{str(key): _described_space(str(key), value) for key, value in older.items()},
        **{
            str(key): str(value) if not isinstance(value, bool) else str(value).lower() for key, value in params.items()
        },
    }


def _described_space(key: str, described: Any) -> str:
    """``{type: float, low: 0, high: 1, log: true}`` in Hydra's grammar."""
    fields = dict(described) if isinstance(described, Mapping) else {}
    kind = fields.get("type")
    if kind == "categorical" and fields.get("choices"):
        return f"choice({','.join(_word(choice) for choice in fields['choices'])})"
    low, high, step = fields.get("low"), fields.get("high"), fields.get("step")
    if kind not in ("int", "float") or not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        raise UserError(
            f"hydra.sweeper.search_space.{key}={described!r} is no space",
            f"write it as sweep.params.{key}: interval(0.1,0.9), range(1,5) or choice(a,b)",
        )
    if step is not None and not (kind == "int" and step == 1):
        # Optuna's ends are both inside, Hydra's range ends before its stop.
        return f"range({low},{high + step / 2},step={step})" if kind == "float" else f"range({low},{high + 1},{step})"
    text = f"interval({low},{high})" if kind == "int" else f"interval({float(low)},{float(high)})"
    return f"tag(log,{text})" if fields.get("log") else text


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sampler(value: Any) -> tuple[dict[str, Any], Any]:
    """``hydra.sweeper.sampler``, a name or a node with ``_target_``, as ours; and its seed."""
    node: dict[str, Any] = {"name": value} if isinstance(value, str) else dict(value)
    spelt = str(node.pop("_target_", node.pop("name", "tpe")))
    name = spelt.rpartition(".")[2].removesuffix("Sampler").lower().replace("_", "")
    seed = node.pop("seed", None)
    return {"name": _CLASSES.get(name, name), **{key: item for key, item in node.items() if item is not None}}, seed


def _max_failures(rate: Any) -> int | None:
    if rate in (0, 1) and not isinstance(rate, bool):
        return None if rate else 1
    raise UserError(
        f"hydra.sweeper.max_failure_rate={rate} is a share of a batch, and a study has no batches",
        "sweep.max_failures=5 stops after so many failures in a row; 0 and 1 are understood",
    )


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


def _words(key: str, value: Any) -> list[str]:
    words = value if isinstance(value, list) else [value]
    if not all(isinstance(word, str) for word in words):
        raise UserError(f"sweep.{key}={value!r} has the wrong type", f"sweep.{key} takes a word or a list of them")
    return list(words)


def _check_retry(value: str | int | list[Any] | None) -> None:
    numbers = value if isinstance(value, list) else [value]
    if value is not None and value != "failed" and not all(type(number) is int and number >= 0 for number in numbers):
        raise UserError(f"sweep.retry={value!r} names no trials", "write failed, a trial's number, or [3,5]")
