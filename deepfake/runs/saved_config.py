"""A past run's config: run again, gone on with, or laid under other data. Knows override grammar; runs nothing."""

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
from deepfake.config import AUTO, RunConfig, flatten, is_environment_key, load_values, plain_yaml, to_plain
from deepfake.data.dataset import settle_faces
from deepfake.errors import UserError, masked
from deepfake.hydra_app import compose_config
from deepfake.installation import CONF
from deepfake.options import literal
from deepfake.runs.context import RunContext
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_folder import CONFIG, PROVENANCE, RESOLVED, RunRecord, from_folder, refuse_links
from deepfake.tracking.runs import lives
from deepfake.tracking.search import find_run
from deepfake.tracking.store import locate

_AGAIN = "-reproduced"
#: ``${oc.env:NAME}`` and its like, which call something; ``${optimizer.lr}`` names another key.
_ASKS = re.compile(r"\$\{[^}]*:")


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


def restore(record: RunRecord, places: Sequence[str], sets: Sequence[str]) -> Restored:
    """The saved config of a run, laid out for this machine.

    Args:
        record: Of the past.
        places: Overrides of environment keys; see :func:`deepfake.config.environment_keys`.
        sets: Overrides of anything else; ``head=gru`` takes another choice of a config group.

    Raises:
        UserError: An override cannot be read or is of the other kind; the saved config is not one of this version.
    """
    check_places(places)
    composed, values = _changed(record, sets)
    then, now = flatten(record.config()), flatten(values)
    here = compose_config()
    moved = {
        # Where a stranger's run was kept is no place to send anything: only what is typed here counts.
        "paths.outputs": here.paths.outputs,
        "tracking.uri": here.tracking.uri,
        "name": _name(str(now.get("name", record.name))),
        "resume": None,
        **_settled(record, values),
        **{override.key_or_group: override.value() for override in _parse([*places, *_named(sets)])},
    }
    for key, value in moved.items():
        OmegaConf.update(composed, key, literal(value), force_add=True)
        _put(values, key, value)
    config = _checked(values, record)
    choices = record.provenance().get("data", {}).get("choices", {})
    return Restored(
        config=config,
        values=values,
        context=RunContext(
            folder=_new_folder(config),
            composed=OmegaConf.to_yaml(composed),
            resolved=plain_yaml(values),
            overrides=[*record.overrides(), *places, *sets],
            choices={**choices, **{o.key_or_group: str(o.value()) for o in _parse(sets) if _is_choice(o)}},
        ),
        changes={
            key: (then.get(key), now.get(key)) for key in {**then, **now} if then.get(key, ...) != now.get(key, ...)
        },
    )


def _settled(record: RunRecord, values: dict[str, Any]) -> dict[str, int]:
    """The batch size that ``auto`` came to: on another machine it could come to another."""
    if values["trainer"]["batch_size"] != "auto" or record.config()["trainer"]["batch_size"] != "auto":
        return {}
    found = record.metrics().get("batch_size")
    return {} if found is None else {"trainer.batch_size": int(found)}


def share_threads(record: RunRecord) -> None:
    """On a CPU sums come out in another order with another number of threads, so the run's own number is taken."""
    import torch

    threads = record.provenance().get("machine", {}).get("threads") if record.has(PROVENANCE) else None
    if threads:
        torch.set_num_threads(int(threads))


def check_places(overrides: Sequence[str]) -> None:
    """Refuse an override that would change what a run is.

    Raises:
        UserError: Which one, and how to say that it is meant.
    """
    for override in _parse(overrides):
        key = override.key_or_group
        if not is_environment_key(key):
            text = f"{key}={override.get_value_string()}"
            raise UserError(f"{text} would change what the run is", f"say that you mean it: --set {text}")


def _changed(record: RunRecord, sets: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """The config with its interpolations and as plain values, as the run had it but for ``sets``."""
    values = record.config()
    composed = OmegaConf.create(_looking_nothing_up(record.composed(), values))
    overrides = _parse(sets)
    if chosen := [override.input_line or "" for override in overrides if _is_choice(override)]:
        # What a choice brings along is known only to the config folder; taken from it is the difference it makes.
        before, after = (_flat(compose_config([*record.overrides(), *more])) for more in ([], chosen))
        _apply(values, before, after)
        composed = OmegaConf.create(literal(values))
    before = _flat(composed)
    for override in overrides:
        if not _is_choice(override):
            OmegaConf.update(composed, override.key_or_group, override.value(), force_add=True)
    # What the environment decided then, such as a folder, is kept; what follows a changed key changes with it.
    _apply(values, before, _flat(composed))
    return composed, values


def _looking_nothing_up(composed: Any, values: Any) -> Any:
    """A composed config that refers to its own keys only: what asked anything else, the environment say, is settled.

    Args:
        composed: From a file that may be a stranger's.
        values: What it was resolved to, of the same shape.
    """
    if isinstance(composed, dict):
        under = values if isinstance(values, dict) else {}
        return {key: _looking_nothing_up(inner, under.get(key)) for key, inner in composed.items()}
    if isinstance(composed, list):
        return literal(values if isinstance(values, list) else composed)
    return literal(values) if isinstance(composed, str) and _ASKS.search(composed) else composed


def _apply(values: dict[str, Any], before: Mapping[str, object], after: Mapping[str, object]) -> None:
    """Change ``values`` by what differs from ``before`` to ``after``."""
    for key in before:
        if key not in after:
            _above(values, key).pop(key.rpartition(".")[2], None)
    for key, value in after.items():
        if before.get(key, ...) != value:
            _put(values, key, value)


def _put(values: dict[str, Any], key: str, value: object) -> None:
    _above(values, key)[key.rpartition(".")[2]] = value


def _above(values: dict[str, Any], key: str) -> dict[str, Any]:
    place = values
    for name in key.split(".")[:-1]:
        if not isinstance(place.get(name), dict):
            place[name] = {}
        place = place[name]
    return place


def _parse(texts: Iterable[str]) -> list[Override]:
    found = OverridesParser.create().parse_overrides(list(texts))
    for override in found:
        if override.is_sweep_override() or override.is_delete():
            raise UserError(f"{override.input_line!r} does not give one value", "write key=value")
    return found


def _is_choice(override: Override) -> bool:
    return (CONF / override.key_or_group).is_dir() and isinstance(override.value(), str)


def _named(sets: Sequence[str]) -> list[str]:
    return [text for text in sets if text.startswith("name=")]


def _flat(config: DictConfig) -> dict[str, Any]:
    return flatten(to_plain(config))


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


def _name(name: str) -> str:
    # Of its own, so that the first run can still be told by its name.
    return name if name.endswith(_AGAIN) else f"{name}{_AGAIN}"


def _new_folder(config: RunConfig) -> Path:
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return config.outputs / "runs" / f"{stamp}_{config.name}_{uuid.uuid4().hex[:6]}"


#: How frames are cut: the model was trained on crops of this kind, so these keys come from its run.
CUT = ("faces", "face_model", "margin", "align", "normalise_format", "size", "frames", "clips", "stride")
#: What may be said of the machine and of the scoring; the other trainer keys are about training.
_TRAINER = ("accelerator", "devices", "precision", "tf32", "batch_size", "num_workers", "threshold", "channels_last")
_OPEN = ("dataset", "demo", "evaluation", "paths", "tracking")


@dataclass(frozen=True)
class Typed:
    """What was typed, composed as ``train.py`` would, and by key.

    Attributes:
        config: The whole composed config.
        keys: The keys that were typed: groups such as ``dataset``, or dotted.
    """

    config: DictConfig
    keys: frozenset[str]

    @property
    def chose_data(self) -> bool:
        """Whether another data set was named."""
        return "dataset" in self.keys

    def under(self, section: str) -> list[str]:
        """The names that were typed below a section."""
        return sorted(key.partition(".")[2] for key in self.keys if key.startswith(f"{section}."))


def typed(overrides: Sequence[str]) -> Typed:
    """Read overrides of a trained run.

    Raises:
        UserError: One that would change the model or its training.
        HydraException: One that cannot be read, or a key or choice that does not exist.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        _check(override)
    keys = frozenset(override.key_or_group for override in parsed)
    return Typed(compose_config(overrides), keys)


def lay_over(record: RunRecord, given: Typed) -> RunConfig:
    """The run's own config, on the data and the machine that were typed.

    Raises:
        UserError: The saved config is none of this version, or a typed value is of no use.
    """
    saved = record.config()
    run = load_values(saved)
    values: dict[str, Any] = {**saved, "resume": None}
    said = to_plain(given.config)
    values["paths"], values["tracking"] = said["paths"], said["tracking"]
    values["dataset"] = _dataset(run, _here(values["dataset"], record), said["dataset"], given)
    # Where it was trained is not where it is used.
    values["trainer"] = {**values.get("trainer", {}), "accelerator": "auto", "devices": "auto"}
    for section in ("demo", "trainer", "evaluation"):
        values[section] = {**values.get(section, {}), **{name: said[section][name] for name in given.under(section)}}
    return load_values(values)


def outputs_of(given: Typed) -> Path:
    """The folder of all that is produced, as typed or from the environment."""
    return Path(str(given.config.paths.outputs)).expanduser().absolute()


def _dataset(run: RunConfig, own: dict[str, Any], said: dict[str, Any], given: Typed) -> dict[str, Any]:
    names = given.under("dataset")
    chosen = {name: said[name] for name in names}
    if "size" in chosen and given.config.dataset.size == AUTO:
        # Of the backbone that was trained, at the size that it was trained at.
        chosen["size"] = own["size"]
    if "size" in chosen and chosen["size"] != own["size"]:
        raise UserError(
            f"dataset.size={chosen['size']}, but the model was trained on crops of {own['size']} pixels",
            "leave dataset.size out",
        )
    if not given.chose_data:
        return {**own, **chosen}
    cut = {name: own[name] for name in CUT if name in own}
    if cut.get("faces") == "auto":
        cut["faces"] = settle_faces(run.dataset).faces
    return {**said, **cut, **chosen}


def _here(own: dict[str, Any], record: RunRecord) -> dict[str, Any]:
    """The run's data where it was then: what was typed as a relative path may mean another folder here."""
    root = own.get("root")
    if root is None or Path(root).expanduser().is_absolute() or not record.has(files.PROVENANCE):
        return own
    return {**own, "root": record.provenance().get("data", {}).get("roots", {}).get(own["name"], root)}


def _check(override: Override) -> None:
    key = override.key_or_group
    section, _, name = key.partition(".")
    if override.is_sweep_override() or override.is_delete():
        raise UserError(f"{override.input_line!r} does not give one value", "write key=value")
    if section not in (*_OPEN, "trainer") or (section == "trainer" and name not in _TRAINER):
        raise UserError(
            f"{override.input_line} would change the run, which is trained already",
            f"what can be said is {', '.join(f'{s}.*' for s in _OPEN)} and trainer.{{{','.join(_TRAINER)}}}",
        )


def resumed(config: RunConfig, context: RunContext) -> tuple[DictConfig, RunContext]:
    """The config and the context of the run that ``config.resume`` names.

    Args:
        config: As typed: where outputs and tracking are, and ``resume``.
        context: Of the command; its overrides may say nothing about the run itself.

    Raises:
        UserError: There is no such run, it is finished, going on or gone, or it was asked to change.
    """
    # Another name would be another run.
    places = [text for text in context.overrides if is_environment_key(text) and not text.startswith("name=")]
    changes = [text for text in context.overrides if text not in places and not text.startswith("resume=")]
    if changes:
        raise UserError(
            f"resume={config.resume} goes on with the run as it was; {changes[0]!r} would change it",
            f"leave the other overrides out, or run it anew: deepfake reproduce {config.resume} --set {changes[0]}",
        )
    outputs = _outputs(str(config.resume), config, places)
    record = find_run(str(config.resume), locate(config.tracking, outputs), outputs)
    folder = _unfinished_folder(record)
    share_threads(record)
    values = _resumed_values(record, config, outputs, places)
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


def _outputs(reference: str, config: RunConfig, places: list[str]) -> Path:
    """What was typed, else the folder that the run's own lies below: only that is no place of a stranger's choosing."""
    path = Path(reference).expanduser()
    if path.is_dir() and not any(text.startswith("paths.") for text in places):
        saved = load_values(from_folder(path).config()).outputs
        if path.resolve().is_relative_to(saved.resolve()):
            return saved
    return config.outputs


def _resumed_values(record: RunRecord, config: RunConfig, outputs: Path, places: list[str]) -> dict[str, Any]:
    """The run's own values, kept and tracked where this command says.

    Raises:
        UserError: It was tracked in another place, and nobody but its folder says so.
    """
    values = record.config()
    saved = values.get("tracking")
    tracking = dict(saved) if isinstance(saved, dict) else {}
    told, here = tracking.get("uri"), config.tracking.uri
    if record.run_id is None and told is not None and here is None:
        raise UserError(
            f"run {record} says that it was tracked in {masked(str(told))}, which was not typed",
            "where runs are sent is never read from a folder: give tracking.uri=… if you trust that place",
        )
    typed = [text.partition("=")[0].split(".") for text in places]
    tracking |= {name: value for name, value in asdict(config.tracking).items() if ["tracking", name] in typed}
    tracking["uri"] = here
    for section, name in (key for key in typed if key[0] not in ("paths", "tracking")):
        values[section] = {**values[section], name: getattr(getattr(config, section), name)}
    return {**values, "paths": {"outputs": str(outputs)}, "tracking": tracking}


def _unfinished_folder(record: RunRecord) -> Path:
    """Where the run is to go on."""
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
