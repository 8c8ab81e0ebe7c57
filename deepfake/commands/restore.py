"""A run of the past as a config that runs again here: its own values, other places, and changes made by name.

Knows Hydra's override grammar and which keys say where rather than what; runs nothing.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from deepfake import __version__
from deepfake.commands.compose import compose_config
from deepfake.commands.context import RunContext
from deepfake.config import RunConfig, flatten, is_environment_key, literal, load_values, plain_yaml, to_plain
from deepfake.errors import UserError
from deepfake.installation import CONF
from deepfake.tracking.folder import PROVENANCE
from deepfake.tracking.record import RunRecord

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
