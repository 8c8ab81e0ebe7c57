"""A trained run's config with what was typed laid over it: other data and another machine, the same model.

Knows which keys belong to the model and which to the data; loads and scores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from deepfake.commands.compose import compose_config
from deepfake.config import AUTO, RunConfig, load_values, to_plain
from deepfake.data.read import settle_faces
from deepfake.errors import UserError
from deepfake.tracking import folder as files
from deepfake.tracking.record import RunRecord

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
    values["dataset"] = _dataset(run, _placed(values["dataset"], record), said["dataset"], given)
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


def _placed(own: dict[str, Any], record: RunRecord) -> dict[str, Any]:
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
