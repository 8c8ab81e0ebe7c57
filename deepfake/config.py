"""A composed config to typed, checked options, before any work is done.

Every room owns the dataclasses of its own keys; this module joins them and turns each mistake into one error
that names the key. Knows OmegaConf, but neither how a config is composed nor what is done with it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from deepfake.data.options import AugmentOptions, DatasetOptions, DemoOptions
from deepfake.errors import UserError, first_line, nearest
from deepfake.models import options as model_options
from deepfake.models.options import BackboneOptions, HeadOptions
from deepfake.options import check, environment, is_under, typed
from deepfake.tracking.options import TrackingOptions
from deepfake.training import options as training_options
from deepfake.training.options import (
    EvaluationOptions,
    FeatureOptions,
    OptimizerOptions,
    SchedulerOptions,
    SelectionOptions,
    TrainerOptions,
)

#: What ``dataset.size`` and ``trainer.batch_size`` may say instead of a number.
AUTO = "auto"
#: Nodes of a composed config that say how runs are chosen, not what a run is; never saved with a run.
SWEEP_NODES = ("sweep", "search")
#: Groups with several kinds of member, of which ``_target_`` names one.
_BASES: dict[str, type[Any]] = {"head": HeadOptions, "optimizer": OptimizerOptions, "scheduler": SchedulerOptions}


@dataclasses.dataclass
class PathOptions:
    """Where everything that is produced goes."""

    outputs: str = "outputs"


@dataclasses.dataclass
class RunConfig:
    """All that one run is made of, typed and within range."""

    name: str = environment("run")
    seed: int = 0
    resume: str | None = None
    paths: PathOptions = environment(dataclasses.field(default_factory=PathOptions))
    dataset: DatasetOptions = dataclasses.field(default_factory=DatasetOptions)
    demo: DemoOptions = dataclasses.field(default_factory=DemoOptions)
    # Before the backbone, whose rate may be the optimizer's: a bad rate is told by the key the user typed.
    optimizer: OptimizerOptions = dataclasses.field(default_factory=training_options.AdamW)
    backbone: BackboneOptions = dataclasses.field(default_factory=BackboneOptions)
    head: HeadOptions = dataclasses.field(default_factory=model_options.Mean)
    scheduler: SchedulerOptions = dataclasses.field(default_factory=training_options.Constant)
    augment: AugmentOptions = dataclasses.field(default_factory=AugmentOptions)
    features: FeatureOptions = dataclasses.field(default_factory=FeatureOptions)
    trainer: TrainerOptions = dataclasses.field(default_factory=TrainerOptions)
    selection: SelectionOptions = dataclasses.field(default_factory=SelectionOptions)
    evaluation: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)
    tracking: TrackingOptions = environment(dataclasses.field(default_factory=TrackingOptions))

    @property
    def outputs(self) -> Path:
        """The folder of all that is produced, absolute."""
        return Path(self.paths.outputs).expanduser().absolute()

    @property
    def seeds(self) -> dict[str, int]:
        """Of all that is drawn, by key."""
        return {"seed": self.seed, "split_seed": self.dataset.split_seed}

    @property
    def cache(self) -> Path:
        """The folder of what can be made again: demo data, crops, features."""
        return self.outputs / "cache"


def load_config(config: DictConfig) -> RunConfig:
    """Check a composed config and give it types.

    Args:
        config: As composed by Hydra.

    Raises:
        UserError: An unknown key, a wrong type, a value out of range or an interpolation that leads nowhere.
    """
    return load_values(to_plain(config))


def load_values(values: Mapping[str, Any]) -> RunConfig:
    """Check a config that is plain values already, such as a run folder's ``resolved.yaml``.

    Args:
        values: Nested, by key. A ``${...}`` in them is text: nothing is looked up, least of all in the environment.

    Raises:
        UserError: An unknown key, a wrong type or a value out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(RunConfig)}
    for key in values:
        if key not in fields:
            raise UserError(f"unknown key {key!r}", nearest(key, known_keys()))
    sections: dict[str, Any] = {}
    scalars: dict[str, Any] = {}
    for key, value in values.items():
        kind: Any = _section_class(key, value)
        if kind is None:
            scalars[key] = value
        else:
            sections[key] = _typed(kind, value, key)
    run = RunConfig(**{**_typed_scalars(scalars), **sections})
    check(run, "")
    return run


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Every interpolation resolved, ``dataset.size=auto`` too, and the nodes that belong to a sweep left out."""
    try:
        plain = OmegaConf.to_container(without_sweep(config), resolve=True, throw_on_missing=True)
    except (InterpolationResolutionError, OmegaConfBaseException) as error:
        raise UserError(f"the config cannot be resolved: {first_line(error)}", "check the ${...} it names") from error
    assert isinstance(plain, dict)
    _settle_size(plain)
    return {str(key): value for key, value in plain.items()}


def plain_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML text; a ``${...}`` in them is written as it is."""
    return yaml.safe_dump(dict(values), default_flow_style=False, allow_unicode=True, sort_keys=False, width=10_000)


def without_sweep(config: DictConfig) -> DictConfig:
    """The config as composed, less the nodes that say how runs are chosen."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key not in SWEEP_NODES])


def known_keys() -> list[str]:
    """Every dotted key a user can set, over all the choices of each group."""
    return sorted(set(_dotted(RunConfig, "")))


def environment_keys(kind: str | None = None) -> list[str]:
    """Keys, and groups of keys, that say where things lie or how the machine is used, not what a run is.

    Args:
        kind: ``data``, where data and weights lie, or ``machine``, all else; None for both.
    """
    return sorted(set(_environment(RunConfig, "", kind)))


def is_environment_key(override: str) -> bool:
    """Whether a key, or what sets it (``key=value``), is one of :func:`environment_keys` or lies below one."""
    return is_under(override.partition("=")[0], environment_keys())


def _settle_size(values: dict[Any, Any]) -> None:
    """Put the size that the backbone was made for in the place of ``auto``: what is kept or keyed holds a number."""
    dataset, backbone = values.get("dataset"), values.get("backbone")
    if isinstance(dataset, dict) and dataset.get("size") == AUTO:
        from deepfake.models.backbone import made_for

        name = backbone.get("name") if isinstance(backbone, dict) else None
        dataset["size"] = made_for(str(name or BackboneOptions().name))


def _choices(base: type[Any]) -> dict[str, type[Any]]:
    return {f"{kind.__module__}.{kind.__name__}": kind for kind in base.__subclasses__()}


def _section_class(key: str, value: Any) -> type[Any] | None:
    if key in _BASES:
        targets = _choices(_BASES[key])
        target = value.get("_target_") if isinstance(value, dict) else value
        if target not in targets:
            raise UserError(f"{key}._target_={target!r} is not one of ours", nearest(target, targets))
        return targets[target]
    default = next(field for field in dataclasses.fields(RunConfig) if field.name == key).default_factory
    return default if isinstance(default, type) and dataclasses.is_dataclass(default) else None


def _typed(kind: type, value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{key}={value!r} is not a group of keys", f"set the keys below it: {_listed(kind, key)}")
    given = {name: item for name, item in value.items() if name != "_target_"}
    for name in given:
        if name not in {field.name for field in dataclasses.fields(kind)}:
            raise UserError(f"unknown key '{key}.{name}'", nearest(f"{key}.{name}", _dotted(kind, f"{key}.")))
    return typed(kind, given, key)


def _typed_scalars(scalars: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, tuple[type, ...]] = {"name": (str,), "seed": (int,), "resume": (str, type(None))}
    for key, value in scalars.items():
        if key == "name" and not isinstance(value, str):
            scalars[key] = str(value)
        elif not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise UserError(f"{key}={value!r} has the wrong type", f"{key} takes {kinds[key][0].__name__}")
    if not re.fullmatch(r"[^/\\\0]{1,200}", str(scalars.get("name", "run"))):
        raise UserError(f"name={scalars['name']!r} cannot name a folder", "use letters, digits, - and _")
    if not 0 <= scalars.get("seed", 0) < 2**32:
        raise UserError(f"seed={scalars['seed']} is out of range", "seed must be at least 0 and below 2**32")
    return scalars


def _dotted(kind: type, prefix: str) -> Iterator[str]:
    for field in dataclasses.fields(kind):
        factory = field.default_factory
        if field.name in _BASES and not prefix:
            for choice in _choices(_BASES[field.name]).values():
                yield from _dotted(choice, f"{field.name}.")
        elif isinstance(factory, type) and dataclasses.is_dataclass(factory):
            yield from _dotted(factory, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _environment(kind: type, prefix: str, wanted: str | None) -> Iterator[str]:
    for field in dataclasses.fields(kind):
        marked = field.metadata.get("environment")
        if marked is not None:
            yield from [f"{prefix}{field.name}"] if wanted in (None, marked) else []
        elif isinstance(field.default_factory, type) and dataclasses.is_dataclass(field.default_factory):
            yield from _environment(field.default_factory, f"{prefix}{field.name}.", wanted)


def _listed(kind: type, key: str) -> str:
    return ", ".join(_dotted(kind, f"{key}."))
