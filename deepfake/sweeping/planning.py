"""Options and the command line to a plan, checked against the config before anything runs.

Knows how Hydra composes; opens a storage only to read the study that another one starts from.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from deepfake.errors import UserError, nearest
from deepfake.sweeping.grammar import parse_space
from deepfake.sweeping.jobs import JobRunner, is_sweep_override
from deepfake.sweeping.options import SweepOptions
from deepfake.sweeping.plan import EvenClock, StudyPlan, code_state, fingerprint, is_under
from deepfake.sweeping.samplers import check_choice, lists_all, sampler_notes
from deepfake.sweeping.space import Parameter, Value, example_points, to_overrides, to_text
from deepfake.sweeping.storage import locate
from deepfake.sweeping.warm import warm_start

_DEFAULT_TRIALS = 20
#: Composing one example takes a tenth of a second.
_MOST_EXAMPLES = 40


def make_plan(
    runner: JobRunner,
    options: SweepOptions,
    overrides: Sequence[Override],
    searching: bool,
    check: Callable[[DictConfig], None] = lambda config: None,
) -> StudyPlan:
    """The plan of this start of a study; also names the sweep's folder after the study.

    Args:
        searching: Whether a sampler chooses; otherwise every point is tried.
        check: Is shown the config of an example of each kind of trial, and raises where it cannot run.

    Raises:
        UserError: Something in the space, the sampler, the objective or the storage does not fit.
    """
    swept = [override for override in overrides if override.is_sweep_override()]
    fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    flat = _flat_config(runner)
    set_here = {override.get_key_element() for override in overrides if not override.is_sweep_override()}
    params = {key: value for key, value in options.params.items() if key not in set_here}
    parameters = parse_space(params, swept, {**flat, **_choices(runner)})
    if not parameters:
        raise UserError(
            "there is nothing to search",
            "give search=lr_batch, or sweep a key: optimizer.lr=tag(log,interval(1e-5,1e-2))",
        )
    # A grid whose jobs run side by side, or that is to be gone on with, is a study that tries every point.
    sampler = options.sampler if searching else {"name": "grid"}
    points = check_choice(sampler, options.pruner, parameters, options.objectives, options.repeat)
    _check_keys(runner, parameters, fixed, flat, check)
    keys = {parameter.key for parameter in parameters}
    ignored = options.volatile or []
    setting = {key: value for key, value in flat.items() if key not in keys and not is_under(key, ignored)}
    meaning = json.dumps(fingerprint(parameters, options.objectives, setting))
    setting = {key: value for key, value in setting.items() if not is_under(key, options.places or [])}
    recorded = [
        text
        for override, text in zip((o for o in overrides if not o.is_sweep_override()), fixed, strict=True)
        if not is_sweep_override(text) and not is_under(override.key_or_group, options.environment)
    ]
    name = options.name or f"study-{zlib.crc32(meaning.encode()):08x}"
    folder = _name_folder(runner, name)
    clock = EvenClock.here()
    began = clock.now()
    warm = warm_start(options, str(sampler["name"]), parameters, folder, {**_choices(runner), **setting})
    notes = [*warm.notes, *sampler_notes(sampler, parameters)]
    # Every point of a grid, where nothing else is asked for.
    wanted = options.n_trials or (points if lists_all(sampler) else None) or _DEFAULT_TRIALS
    if points is not None and wanted > points:
        notes.append(
            f"the space holds {points} points: there will be no more trials, as a point comes out the same again"
        )
    return StudyPlan(
        name=name,
        folder=folder,
        location=locate(options.storage, folder),
        parameters=parameters,
        objectives=options.objectives,
        fixed=fixed,
        total=min(filter(None, (wanted, points))),
        points=points,
        sampler=sampler,
        pruner=options.pruner,
        seed=options.seed,
        retries=options.retries,
        heartbeat=options.heartbeat,
        max_failures=options.max_failures,
        began=began,
        clock=clock,
        deadline=None if options.timeout_seconds is None else began + options.timeout_seconds,
        trial_timeout=options.trial_timeout_seconds,
        setting=setting,
        warm=warm.named,
        source=options.source,
        borrowed=warm.borrowed,
        recorded=recorded,
        choices={key: value for key, value in _choices(runner).items() if key not in keys},
        code=code_state(runner.task),
        repeat=options.repeat,
        notes=notes,
        environment=options.environment,
    )


def _name_folder(runner: JobRunner, name: str) -> Path:
    """Beside where a nameless sweep would go, so that the same study finds its folder again."""
    if "/" in name or name in ("", ".", ".."):
        raise UserError(f"sweep.name={name!r} cannot name a folder", "use letters, digits, - and _")
    config = runner.config
    given = any(text.startswith("hydra.sweep.dir=") for text in runner.hydra_overrides)
    folder = runner.folder if given else runner.folder.parent / name
    with open_dict(config):
        config.hydra.sweep.dir = str(folder)
    return folder


def _flat_config(runner: JobRunner) -> dict[str, str]:
    """Every key of the composed config and its value as written; ``hydra`` and ``sweep`` are not of a job."""
    plain = OmegaConf.to_container(runner.config, resolve=False)
    assert isinstance(plain, dict)
    return dict(_flatten({str(k): v for k, v in plain.items() if k not in ("hydra", "sweep")}, ""))


def _flatten(values: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat += _flatten(value, f"{prefix}{key}.")
        else:
            flat.append(
                (f"{prefix}{key}", to_text(value) if not isinstance(value, (list, dict)) else json.dumps(value))
            )
    return flat


def _choices(runner: JobRunner) -> dict[str, str]:
    return {str(group): str(choice) for group, choice in runner.config.hydra.runtime.choices.items()}


def _check_keys(
    runner: JobRunner,
    parameters: Sequence[Parameter],
    fixed: Sequence[str],
    flat: Mapping[str, str],
    check: Callable[[DictConfig], None],
) -> None:
    """Compose an example of every condition and of every choice of a group, and look for the swept keys in it."""
    loader = runner.context.config_loader
    options = {parameter.key: loader.get_group_options(parameter.key) for parameter in parameters}
    groups = [key for key, known in options.items() if known]
    for parameter in parameters:
        for choice in parameter.values() or [] if parameter.key in groups else []:
            if to_text(choice) not in options[parameter.key]:
                raise UserError(
                    f"{parameter.key}={to_text(choice)} does not exist", nearest(choice, options[parameter.key])
                )
    for number, point in enumerate(example_points(parameters, groups)):
        if number >= _MOST_EXAMPLES:
            return
        try:
            config = runner.compose([*fixed, *to_overrides(point)])
        except (HydraException, OmegaConfBaseException) as error:
            _explain(runner, parameters, {key: point[key] for key in point if key in groups}, fixed, flat)
            first = str(error).splitlines()[0]
            raise UserError(
                f"{' '.join(to_overrides(point))} cannot be composed: {first}", "check the space"
            ) from error
        check(config)


def _explain(
    runner: JobRunner,
    parameters: Sequence[Parameter],
    chosen: Mapping[str, Value],
    fixed: Sequence[str],
    flat: Mapping[str, str],
) -> None:
    """Raise for the swept key that the config lacks beside these choices of groups, if that is the trouble."""
    config = runner.compose([*fixed, *to_overrides(chosen)])
    for parameter in parameters:
        key = parameter.key
        known = key in chosen or key.startswith("+") or not parameter.applies(chosen)
        if not known and OmegaConf.select(config, key, default=_MISSING) is _MISSING:
            beside = f" beside {' '.join(to_overrides(chosen))}" if chosen else ""
            raise UserError(f"the config has no key {key!r}{beside}, which is swept", _short(nearest(key, flat)))


def _short(hint: str) -> str:
    meant, found, _ = hint.partition("? choices:")
    return f"{meant}? or limit it with when: {{model: [...]}}" if found else "--cfg job lists every key"


_MISSING = object()
