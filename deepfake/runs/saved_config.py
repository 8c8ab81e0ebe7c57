"""A past run's config: run again, gone on with, or laid under other data. Knows override grammar; runs nothing.

A saved config may be a stranger's: it is plain values, in which nothing is looked up. What is typed is laid over it.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from deepfake import __version__
from deepfake.config import AUTO, RunConfig, environment_keys, load_values, plain_yaml, to_plain
from deepfake.data.dataset import settle_faces
from deepfake.errors import UserError, masked
from deepfake.hydra_app import compose_config
from deepfake.installation import CONF
from deepfake.options import flatten, is_under, literal
from deepfake.runs.context import RunContext
from deepfake.tracking.run_folder import CONFIG, PROVENANCE, RESOLVED, refuse_links
from deepfake.tracking.run_record import RunRecord, from_folder
from deepfake.tracking.runs import lives
from deepfake.tracking.search import find_run
from deepfake.tracking.store import locate

#: Keys that say how frames are cropped: the model was trained on crops of this kind.
CROP_KEYS = (
    *("faces", "face_model", "margin", "align", "box", "view", "normalise_format", "size"),
    *("frames", "clips", "stride", "stride_seconds", "slack"),
)
#: Of the trainer, what concerns the machine and the scoring; the other keys are about training.
_SCORING = ("accelerator", "devices", "precision", "tf32", "batch_size", "num_workers", "threshold", "channels_last")
_REPRODUCED = "-reproduced"
#: ``${oc.env:NAME}`` and its like, which call something; ``${optimizer.lr}`` names another key.
_CALLS = re.compile(r"\$\{[^}]*:")
_REMOVED = object()


@dataclass(frozen=True)
class Use:
    """What a saved config is used for again.

    Attributes:
        keys: Keys, and groups of keys, that may be said then; None for any.
        refusal: What is wrong with another one: ``{text}`` was typed, ``{run}`` is the run.
        hint: What to do instead; ``{keys}`` are those that may be said.
    """

    keys: Sequence[str] | None
    refusal: str = ""
    hint: str = ""


REPRODUCE = Use(environment_keys(), "{text} would change what the run is", "say that you mean it: --set {text}")
CHANGE = Use(None)
EVALUATE = Use(
    # Where the weights lie that a backbone began with says no more than that: they are held to their digest.
    ("dataset", "demo", "evaluation", "paths", "tracking", "backbone.weights", *(f"trainer.{key}" for key in _SCORING)),
    "{text} would change the run, which is trained already",
    "what can be said is {keys}, and what lies below them",
)
ENSEMBLE = Use(
    # What is done with clips' scores; the scores themselves are those that the runs kept.
    (
        *(f"evaluation.{name}" for name in ("clips", "top_k", "faces", "threshold", "calibration")),
        *(f"evaluation.{name}" for name in ("resamples", "level", "min_coverage")),
        "paths",
        "tracking",
    ),
    "{text} would change the runs, which are trained and scored already",
    "what can be said of an ensemble is name, {keys}, and what lies below them",
)
RESUME = Use(
    # Under another name it would be another run.
    ("resume", *(key for key in environment_keys() if key != "name")),
    "resume={run} goes on with the run as it was; {text!r} would change it",
    "leave the other overrides out, or run it anew: deepfake reproduce {run} --set {text}",
)


def read_overrides(texts: Iterable[str], use: Use, run: object = "") -> list[Override]:
    """Parse what was typed to be laid over a saved config.

    Args:
        texts: ``key=value`` each.
        use: What for.
        run: As it was named, for the refusal.

    Raises:
        UserError: One gives no single value, or may not be said for this use; with the way to say it.
        HydraException: One cannot be read.
    """
    found = OverridesParser.create().parse_overrides(list(texts))
    for override in found:
        text = override.input_line
        if override.is_sweep_override() or override.is_delete():
            raise UserError(f"{text!r} does not give one value", "write key=value")
        if use.keys is not None and not is_under(override.key_or_group, use.keys):
            words = {"text": text, "run": run, "keys": ", ".join(use.keys)}
            raise UserError(use.refusal.format(**words), use.hint.format(**words))
    return found


def apply_changes(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Change saved values in place.

    Args:
        values: Nested, by key.
        changes: New values by dotted key; a ``${...}`` in one is text.
    """
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = values
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        if value is _REMOVED:
            place.pop(name, None)
        else:
            place[name] = value


def _typed_values(given: Mapping[str, Any], overrides: Iterable[Override]) -> dict[str, Any]:
    """The values of the keys that were typed, by dotted key; of one inside a list the whole list."""
    found = {}
    for override in overrides:
        value: Any = given
        path: list[str] = []
        for name in override.key_or_group.split("."):
            if isinstance(value, list):
                break
            value = value[name]
            path.append(name)
        found[".".join(path)] = value
    return found


@dataclass(frozen=True)
class Restored:
    """A run made ready to be run again.

    Attributes:
        config: Typed and checked.
        values: The same, resolved and plain.
        context: Its new folder, and what was typed, then and now.
        changes: What is another value now by key, with the value then and now; keys that only say where left out.
    """

    config: RunConfig
    values: dict[str, Any]
    context: RunContext
    changes: dict[str, tuple[object, object]]


def restore(
    record: RunRecord, places: Sequence[str], sets: Sequence[str], lies: Mapping[str, str] | None = None
) -> Restored:
    """The saved config of a run, laid out for this machine.

    Args:
        record: Of the past.
        places: Overrides of environment keys; see :func:`deepfake.config.environment_keys`.
        sets: Overrides of anything else; ``head=gru`` takes another choice of a config group.
        lies: Where what it names lies now, by key; what is typed counts more.

    Raises:
        UserError: An override cannot be read or is of the other kind; the saved config is not one of this version.
    """
    record.refuse_ensemble("cannot be run again", "reproduce these, and make an ensemble of what comes out")
    where, changed = read_overrides(places, REPRODUCE), read_overrides(sets, CHANGE)
    values = record.config()
    then = flatten(record.config())
    composed = _change(record, OmegaConf.create(_without_calls(record.composed(), values)), values, changed)
    now = flatten(values)
    here = compose_config()
    name = str(now.get("name", record.name))
    moved: dict[str, Any] = {
        # Where a stranger's run was kept is no place to send anything: only what is typed here counts.
        "paths.outputs": here.paths.outputs,
        "tracking.uri": here.tracking.uri,
        # Of its own, so that the first run can still be told by its name.
        "name": name if name.endswith(_REPRODUCED) else f"{name}{_REPRODUCED}",
        "resume": None,
        **(lies or {}),
    }
    if now.get("trainer.batch_size") == then.get("trainer.batch_size") == AUTO and "batch_size" in record.metrics():
        # On another machine it could come to another.
        moved["trainer.batch_size"] = int(record.metrics()["batch_size"])
    apply_changes(values, moved)
    for key, value in moved.items():
        OmegaConf.update(composed, key, literal(value), force_add=True)
    found = (*environment_keys(), *(lies or {}))
    typed_here = [*where, *(one for one in changed if is_under(one.key_or_group, found))]
    composed = _change(record, composed, values, typed_here)
    config = _checked(values, record)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    choices = record.provenance().get("data", {}).get("choices", {})
    return Restored(
        config=config,
        values=values,
        context=RunContext(
            folder=config.outputs / "runs" / f"{stamp}_{config.name}_{uuid.uuid4().hex[:6]}",
            composed=OmegaConf.to_yaml(composed),
            resolved=plain_yaml(values),
            overrides=[*record.overrides(), *places, *sets],
            choices={**choices, **{one.key_or_group: str(one.value()) for one in changed if _is_choice(one)}},
        ),
        changes={key: (then.get(key), now.get(key)) for key in _differences(then, now)},
    )


def _change(
    record: RunRecord, composed: DictConfig, values: dict[str, Any], overrides: Sequence[Override]
) -> DictConfig:
    """Lay overrides over a saved config, as composed and as values (in place); returns the composed one.

    What the environment decided then, such as a folder, is kept; what follows a changed key changes with it.
    """
    if chosen := [one.input_line or "" for one in overrides if _is_choice(one)]:
        # What a choice brings along is known only to the config folder; taken from it is the difference it makes.
        before, after = (_flat(compose_config([*record.overrides(), *more])) for more in ([], chosen))
        apply_changes(values, _differences(before, after))
        composed = OmegaConf.create(literal(values))
    before, keys = _flat(composed), [one for one in overrides if not _is_choice(one)]
    for one in keys:
        OmegaConf.update(composed, one.key_or_group, one.value(), force_add=True)
    apply_changes(values, _differences(before, _flat(composed)) | _typed_values(to_plain(composed), keys))
    return composed


def _differences(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
    gone = {key: _REMOVED for key in before if key not in after}
    return gone | {key: value for key, value in after.items() if before.get(key, ...) != value}


def _flat(config: DictConfig) -> dict[str, Any]:
    return flatten(to_plain(config))


def _is_choice(override: Override) -> bool:
    return (CONF / override.key_or_group).is_dir() and isinstance(override.value(), str)


def _without_calls(composed: Any, values: Any) -> Any:
    """A composed config that refers to its own keys only; what calls anything, such as the environment, is resolved.

    Args:
        composed: From a file that may be a stranger's.
        values: What it was resolved to, of the same shape.
    """
    if isinstance(composed, dict):
        under = values if isinstance(values, dict) else {}
        return {key: _without_calls(inner, under.get(key)) for key, inner in composed.items()}
    if isinstance(composed, list):
        return literal(values if isinstance(values, list) else composed)
    return literal(values) if isinstance(composed, str) and _CALLS.search(composed) else composed


def _checked(values: dict[str, Any], record: RunRecord) -> RunConfig:
    try:
        return load_values(values)
    except UserError as error:
        made = record.provenance()
        version = made.get("packages", {}).get("deepfake-sweeps", "unknown")
        commit = (made.get("git") or {}).get("commit")
        by = f"version {version} at commit {commit}" if commit else f"version {version}"
        raise UserError(
            f"run {record} cannot be run by this version: {error.message}",
            f"{error.hint} (it was made by {by}, this is {__version__})",
        ) from error


def use_threads_of(record: RunRecord) -> None:
    """Use as many threads as the run did."""
    from deepfake.training.runtime import use_threads

    threads = record.provenance().get("machine", {}).get("threads") if record.has(PROVENANCE) else None
    if threads:
        use_threads(int(threads))


@dataclass(frozen=True)
class Changes:
    """What was typed for a trained run.

    Attributes:
        config: The whole config, composed as ``train.py`` would.
        overrides: What that is.
    """

    config: DictConfig
    overrides: Sequence[Override]

    def has(self, key: str) -> bool:
        """Whether this very key, or group, was typed."""
        return any(one.key_or_group == key for one in self.overrides)

    @property
    def texts(self) -> list[str]:
        """What was typed, as it was."""
        return [one.input_line or "" for one in self.overrides]

    @property
    def values(self) -> dict[str, Any]:
        """What was typed by dotted key, and where things are kept and tracked."""
        given = to_plain(self.config)
        return {"paths": given["paths"], "tracking": given["tracking"], **_typed_values(given, self.overrides)}

    @property
    def outputs(self) -> Path:
        """The folder of all that is produced, as typed or from the environment."""
        return Path(str(self.config.paths.outputs)).expanduser().absolute()


def read_changes(texts: Sequence[str]) -> Changes:
    """Read overrides of a trained run.

    Raises:
        UserError: One that would change the model or its training.
        HydraException: One that cannot be read, or a key or choice that does not exist.
    """
    overrides = read_overrides(texts, EVALUATE)
    return Changes(compose_config(texts), overrides)


def with_changes(record: RunRecord, changes: Changes) -> RunConfig:
    """The run's own config, on the data and the machine that were typed.

    Raises:
        UserError: The saved config is none of this version, or a typed value is of no use.
    """
    values, given = record.config(), to_plain(changes.config)
    trained, dataset = load_values(values), _located(values["dataset"], record)
    if changes.config.dataset.size == AUTO:
        # Of the backbone that was trained, at the size that it was trained at.
        given["dataset"]["size"] = dataset["size"]
    if changes.has("dataset.size") and given["dataset"]["size"] != dataset["size"]:
        raise UserError(
            f"dataset.size={given['dataset']['size']}, but the model was trained on crops of {dataset['size']} pixels",
            "leave dataset.size out",
        )
    if changes.has("dataset"):
        crops = {name: dataset[name] for name in CROP_KEYS if name in dataset}
        if crops.get("faces") == "auto":
            crops["faces"] = settle_faces(trained.dataset).faces
        dataset = {**given["dataset"], **crops}
    # Where it was trained is not where it is used.
    machine = {"resume": None, "trainer.accelerator": "auto", "trainer.devices": "auto"}
    machine |= {section: given[section] for section in ("paths", "tracking")}
    keys = [one for one in changes.overrides if one.key_or_group != "dataset"]
    apply_changes(values, {"dataset": dataset, **machine, **_typed_values(given, keys)})
    return load_values(values)


def _located(dataset: dict[str, Any], record: RunRecord) -> dict[str, Any]:
    """The run's data where it was then: what was typed as a relative path may mean another folder here."""
    root = dataset.get("root")
    if root is None or Path(root).expanduser().is_absolute() or not record.has(PROVENANCE):
        return dataset
    return {**dataset, "root": record.provenance().get("data", {}).get("roots", {}).get(dataset["name"], root)}


def resume_config(config: RunConfig, context: RunContext) -> tuple[DictConfig, RunContext]:
    """The config and the context of the run that ``config.resume`` names.

    Args:
        config: As typed: where outputs and tracking are, and ``resume``.
        context: Of the command; its overrides may say nothing about the run itself.

    Raises:
        UserError: There is no such run, it is finished, going on or gone, or it was asked to change.
    """
    found = read_overrides(context.overrides, RESUME, config.resume)
    typed = [one for one in found if one.key_or_group != "resume"]
    outputs = _outputs(str(config.resume), config, any(is_under(one.key_or_group, ["paths"]) for one in typed))
    record = find_run(str(config.resume), locate(config.tracking, outputs), outputs)
    folder = _unfinished_folder(record)
    use_threads_of(record)
    values = record.config()
    _check_tracked(values, record, config)
    # Kept and tracked where this command says.
    where = {"paths": {"outputs": str(outputs)}, "tracking.uri": config.tracking.uri}
    apply_changes(values, _typed_values(asdict(config), typed) | where)
    choices = record.provenance().get("data", {}).get("choices", {}) if record.has(PROVENANCE) else {}
    return OmegaConf.create(literal(values)), replace(
        context,
        folder=folder,
        composed=record.file(CONFIG).read_text(encoding="utf-8", errors="replace"),
        resolved=plain_yaml(values),
        overrides=record.overrides(),
        choices={str(key): str(value) for key, value in choices.items()},
        parent_run_id=record.tags.get("mlflow.parentRunId"),
        resume=True,
        resume_id=record.run_id,
    )


def _outputs(reference: str, config: RunConfig, typed: bool) -> Path:
    """The folder of outputs that was typed, else the saved one where the run lies in it: others may be a stranger's."""
    path = Path(reference).expanduser()
    if path.is_dir() and not typed:
        saved = load_values(from_folder(path).config()).outputs
        if path.resolve().is_relative_to(saved.resolve()):
            return saved
    return config.outputs


def _check_tracked(values: Mapping[str, Any], record: RunRecord, config: RunConfig) -> None:
    """Refuse a run that was tracked in another place, where nobody but its folder says so."""
    tracking = values.get("tracking")
    uri = tracking.get("uri") if isinstance(tracking, dict) else None
    if record.run_id is None and uri is not None and config.tracking.uri is None:
        raise UserError(
            f"run {record} says that it was tracked in {masked(str(uri))}, which was not typed",
            "where runs are sent is never read from a folder: give tracking.uri=… if you trust that place",
        )


def _unfinished_folder(record: RunRecord) -> Path:
    """Where the run is to go on."""
    record.refuse_let_go()
    if record.status == "FINISHED":
        raise UserError(f"run {record} is finished: there is nothing to resume", "start a new run")
    folder = next((place for place in record.places if (place / RESOLVED).is_file()), None)
    if folder is None:
        looked = ", ".join(str(place) for place in record.places)
        raise UserError(
            f"the folder of run {record} is gone, and what it saved with it: looked in {looked}",
            "only its folder holds an unfinished run; start a new one",
        )
    if record.run_id is None:
        refuse_links(folder)
    pid = record.tags.get("pid", "")
    here = record.tags.get("host") == socket.gethostname()
    if (
        here
        and pid.isdigit()
        and int(pid) != os.getpid()
        and lives(int(pid), _written(folder), record.tags.get("process_ticks"))
    ):
        raise UserError(f"run {record} is still going on, in process {pid}", "wait for it, or stop it first")
    return folder


def _written(folder: Path) -> float:
    """When the run last began, in seconds since 1970: a process younger than that is another one."""
    return max((folder / name).stat().st_mtime for name in (RESOLVED, PROVENANCE) if (folder / name).is_file())
