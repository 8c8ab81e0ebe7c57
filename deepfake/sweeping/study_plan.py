"""A sweep's options to a checked study plan: everything that can be wrong is found before the first trial."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from deepfake import __version__
from deepfake.errors import UserError, closest, first_line, nearest
from deepfake.options import flatten, is_under, split_override
from deepfake.sweeping.budget import Budget, parse_budget
from deepfake.sweeping.callbacks import Objective
from deepfake.sweeping.constraints import Constraint, parse_constraints
from deepfake.sweeping.jobs import JobRunner, is_sweep_override
from deepfake.sweeping.options import SweepOptions
from deepfake.sweeping.promotion import Promotion
from deepfake.sweeping.repeats import Repeats, parse_repeats
from deepfake.sweeping.samplers import (
    check_choice,
    check_ordered,
    constraint_notes,
    create_promotion,
    lists_all,
    sampler_notes,
)
from deepfake.sweeping.search_space import Parameter, Value, example_points, parse_space, to_overrides, to_text
from deepfake.sweeping.stopping import StopRule, check_rule, parse_rule, rule_notes
from deepfake.sweeping.storage import Location, locate
from deepfake.sweeping.warm_start import warm_start

#: How many trials a study has where neither its space nor the user says.
_DEFAULT_TRIALS = 20
#: Composing one example needs a tenth of a second.
_MOST_EXAMPLES = 40
_MISSING = object()


@dataclass(frozen=True)
class EvenClock:
    """Seconds since 1970, counted on from when a start began, so that setting the machine's clock changes nothing.

    Attributes:
        boot: The boot it counts from; processes on another machine, or after another boot, use their own clock.
        offset: Seconds from that boot's clock to 1970.
    """

    boot: str
    offset: float

    @staticmethod
    def here() -> EvenClock:
        """This machine's, as its clock stands now."""
        return EvenClock(_boot(), time.time() - _uptime())

    def now(self) -> float:
        """Seconds since 1970."""
        return self.offset + _uptime() if self.boot and self.boot == _boot() else time.time()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _uptime() -> float:
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


@dataclass(frozen=True)
class StudyPlan:
    """One start of a study.

    Attributes:
        fixed: The overrides that hold for every trial.
        setting: The rest of the config, key to value, without what may differ between two starts.
        total: How many trials the study is to have, over all its starts; None where its budget alone says.
        points: How many points the space has, where that is known and none is tried again.
        promotion: How trials are paused and promoted; None where none is paused.
        budget: What all trials may spend, over all its starts; None for no limit.
        began: When this start began, in seconds since the epoch; failures in a row are counted from here.
        clock: The clock of all processes of this start.
        deadline: The same clock; no trial starts after it.
        retries: How often a trial whose process died without a new step is taken up again.
        trial_timeout: Seconds that a trial may run.
        warm: Points to try first.
        borrowed: The best points of each study that is begun from, by its name; they are tried after those.
        recorded: Of ``fixed``, what is recorded with the study: all but what may differ between two starts.
        choices: The choice made in each config group that is not swept.
        repeat: Whether a point that was tried may be tried again.
        code: What code this start runs; see :func:`code_state`.
        environment: Keys, and groups of keys, that may differ between two starts.
        ordered: Whether timing may decide nothing; None leaves it as the study was begun.
        lag: What is given of it; see :class:`deepfake.sweeping.order.Order`.
        fuse: How many trials a worker runs at a time.
        notes: What is printed before the first trial.
        constraints: What the best must keep.
        repeats: Over which seeds each point is run; None where it is run once.
        stop_when: When it ends before the total.
    """

    name: str
    folder: Path
    location: Location
    parameters: list[Parameter]
    objectives: list[Objective]
    fixed: list[str]
    total: int | None
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    points: int | None = None
    promotion: Promotion | None = None
    budget: Budget | None = None
    seed: int = 0
    retries: int = 3
    heartbeat: float = 30.0
    max_failures: int | None = None
    began: float = field(default_factory=time.time)
    clock: EvenClock = field(default_factory=EvenClock.here)
    deadline: float | None = None
    setting: Mapping[str, str] = field(default_factory=dict)
    warm: Sequence[Mapping[str, Any]] = ()
    borrowed: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    recorded: Sequence[str] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    repeat: bool = False
    code: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    trial_timeout: float | None = None
    environment: Sequence[str] = ()
    ordered: bool | None = None
    lag: int | None = None
    fuse: int = 1
    constraints: Sequence[Constraint] = ()
    repeats: Repeats | None = None
    stop_when: StopRule | None = None

    @property
    def judged_by(self) -> dict[str, str]:
        """What else than its objectives a point is compared by."""
        return _judged_by(self.constraints, self.repeats)


def _judged_by(constraints: Sequence[Constraint], repeats: Repeats | None) -> dict[str, str]:
    bounds = {f"constraint {one}": "kept" for one in constraints}
    return bounds if repeats is None else {**bounds, "sweep.repeats": str(repeats.count)}


def fingerprint(
    parameters: Sequence[Parameter],
    objectives: Sequence[Objective],
    setting: Mapping[str, str],
    judged_by: Mapping[str, str] | None = None,
) -> dict[str, dict[str, str]]:
    """What may not change under one study's name, as section, key and meaning."""
    return {
        "space": {parameter.key: parameter.describe() for parameter in parameters},
        "objective": {item.metric: item.direction for item in objectives},
        **({"judged by": dict(judged_by)} if judged_by else {}),
        "setting": dict(setting),
    }


def differences(
    before: Mapping[str, Mapping[str, str]],
    now: Mapping[str, Mapping[str, str]],
    given_before: Sequence[str] | None = (),
    given_now: Sequence[str] = (),
    environment: Sequence[str] = (),
) -> list[str]:
    """What changed between two fingerprints, each change in a few words.

    A setting that only one of them has came or went with a version of the program and is no change, unless an
    override of one start, such as ``+new=4``, put it there or took it away. ``environment`` names keys, and groups of
    keys, of which none is a change.
    """
    changes = []
    if given_before is None:
        # An older study, without overrides: of those given now only an addition is surely a change.
        given_before = [text for text in given_now if not text.startswith("+")]
    touched = [split_override(text)[0].partition("@")[0] for text in {*given_before} ^ {*given_now}]
    touched = [key for key in touched if not is_under(key, environment)]
    for section in dict.fromkeys([*now, *before]):
        old, new = before.get(section, {}), now.get(section, {})
        for key in sorted({*old, *new}):
            if key in new and key in old:
                changes += [f"{section} {key} was {old[key]} and is {new[key]}"] if old[key] != new[key] else []
            elif section != "setting" or any(is_under(key, [one]) for one in touched):
                changes.append(f"{section} {key} is {'new' if key in new else 'gone'}")
    return changes


def code_state(task: Callable[..., Any]) -> dict[str, str]:
    """What code a task runs: this package's version, the file it is in, and that file's repository.

    Args:
        task: The function that every trial calls.

    Returns:
        ``version``; ``file``, a digest of the task's own; and within a git repository ``commit`` and, where Python
        files differ from it, ``changes``, a digest of how.
    """
    state = {"version": __version__}
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(task)) or "")
        state["file"] = _digest(file.read_bytes())
    except (OSError, TypeError):
        # Typed into an interpreter, or an object that is called.
        return state
    commit = _git(file.parent, "rev-parse", "HEAD")
    tracked = _git(file.parent, "ls-files", "--error-unmatch", file.name)
    if commit is None or tracked is None:
        # Installed into, or lying in, a repository of something else.
        return state
    top = Path((_git(file.parent, "rev-parse", "--show-toplevel") or b"").decode().strip())
    state["commit"] = commit.decode().strip()
    changes = _git(top, "diff", "HEAD", "--", "*.py") or b""
    for name in (_git(top, "ls-files", "--others", "--exclude-standard", "-z", "--", "*.py") or b"").split(b"\0")[:-1]:
        path = top / name.decode(errors="surrogateescape")
        changes += name + path.read_bytes() if path.is_file() else b""
    if changes:
        state["changes"] = _digest(changes)
    return state


def describe_code(state: Mapping[str, str]) -> str:
    """A state of the code for a person."""
    if "commit" not in state:
        return f"version {state.get('version')}" + (f", file {state['file']}" if "file" in state else "")
    changes = f" with uncommitted changes ({state['changes']})" if "changes" in state else ""
    return f"commit {state['commit'][:10]}{changes}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:10]


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


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
    # What ends a study before all its trials have begun would find none that has completed.
    waits = options.budget is None and options.stop_when is None and options.timeout_seconds is None
    promotion = create_promotion(options.pruner, options.objectives, waits=waits)
    budget = None if options.budget is None else parse_budget(options.budget)
    _check_budget(budget, promotion)
    ordered = _ordered(options, sampler)
    constraints = parse_constraints(options.constraints)
    heeded = constraint_notes(sampler, constraints)
    repeats = parse_repeats(options, [parameter.key for parameter in parameters], runner.config)
    _check_keys(runner, parameters, fixed, flat, check)
    keys = {parameter.key for parameter in parameters}
    ignored = options.volatile or []
    setting = {key: value for key, value in flat.items() if key not in keys and not is_under(key, ignored)}
    meaning = json.dumps(fingerprint(parameters, options.objectives, setting, _judged_by(constraints, repeats)))
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
    notes = [*warm.notes, *sampler_notes(sampler, parameters), *heeded]
    # Every point of a grid, where nothing else is asked for.
    wanted = options.n_trials or (points if lists_all(sampler) else None)
    if wanted is None and budget is None:
        wanted = _DEFAULT_TRIALS
    if points is not None and wanted is not None and wanted > points:
        notes.append(
            f"the space holds {points} points: there will be no more trials, as a point comes out the same again"
        )
    total = min(filter(None, (wanted, points)), default=None)
    rule = _stop_rule(options, parameters, constraints, promotion)
    notes += rule_notes(rule, total, repeated=repeats is not None)
    return StudyPlan(
        name=name,
        folder=folder,
        location=locate(options.storage, folder),
        parameters=parameters,
        objectives=options.objectives,
        fixed=fixed,
        total=total,
        points=points,
        promotion=promotion,
        budget=budget,
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
        borrowed=warm.borrowed,
        recorded=recorded,
        choices={key: value for key, value in _choices(runner).items() if key not in keys},
        code=code_state(runner.task),
        repeat=options.repeat,
        notes=notes,
        environment=options.environment,
        ordered=ordered,
        lag=options.lag,
        fuse=options.fuse,
        constraints=constraints,
        repeats=repeats,
        stop_when=rule,
    )


def _check_budget(budget: Budget | None, promotion: Promotion | None) -> None:
    if budget is None or promotion is None:
        return
    if not promotion.eager:
        raise UserError(
            "sweep.pruner.eager=false promotes once all trials have begun, and sweep.budget sets them no number",
            "leave one out",
        )
    if not budget.in_epochs:
        return
    least = promotion.epochs(0, 0)
    if budget.amount < least:
        raise UserError(
            f"sweep.budget={budget.amount:.0f} epochs take no trial to its first rung, at {least}",
            f"give sweep.budget={least} or more, or a smaller sweep.pruner.min_resource",
        )


def _stop_rule(
    options: SweepOptions,
    parameters: Sequence[Parameter],
    constraints: Sequence[Constraint],
    promotion: Promotion | None,
) -> StopRule | None:
    rule = parse_rule(options.stop_when)
    check_rule(
        rule,
        objectives=len(options.objectives),
        constrained=bool(constraints),
        unconditional=any(not parameter.when for parameter in parameters),
        promotes=promotion is not None,
    )
    return rule


def _ordered(options: SweepOptions, sampler: Mapping[str, Any]) -> bool | None:
    """Whether an order is asked for, which a lag does as well."""
    if options.ordered is False and options.lag is not None:
        raise UserError(f"sweep.lag={options.lag} is of an ordered study, and sweep.ordered=false", "leave one out")
    ordered = True if options.lag is not None else options.ordered
    asked = "sweep.ordered=true" if options.lag is None else f"sweep.lag={options.lag}"
    left_out = asked.partition("=")[0]
    if ordered:
        check_ordered(sampler, options.pruner)
        if options.budget is not None:
            raise UserError(
                f"sweep.budget={options.budget} is spent by what runs at the same time, and {asked} asks for an order",
                f"say sweep.n_trials, or leave {left_out} out",
            )
        if options.fuse > 1:
            raise UserError(
                f"sweep.fuse={options.fuse} trains together what runs at the same time, and {asked} asks for an order",
                "leave one out: last digits depend on who is trained together",
            )
    return ordered


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
    flat = flatten({str(key): value for key, value in plain.items() if key not in ("hydra", "sweep")})
    return {
        key: json.dumps(value) if isinstance(value, (list, dict)) else to_text(value) for key, value in flat.items()
    }


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
            raise UserError(
                f"{' '.join(to_overrides(point))} cannot be composed: {first_line(error)}", "check the space"
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
            meant = closest(key, flat)
            hint = f"{meant} or limit it with when: {{model: [...]}}" if meant else "--cfg job lists every key"
            raise UserError(f"the config has no key {key!r}{beside}, which is swept", hint)
