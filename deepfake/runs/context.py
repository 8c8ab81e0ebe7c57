"""Where one run stands: its folder, what was typed, which choices were made, whose child it is.

Knows Hydra's runtime; nothing of data, models or tracking but how runs are named.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from deepfake.config import plain_yaml, to_plain, without_sweep
from deepfake.errors import UserError
from deepfake.options import overrides_by_key, split_override
from deepfake.sweeping.jobs import is_sweep_override
from deepfake.tracking.names import plain, run_name

#: Written into a sweep's folder before its first job: which tracking run its jobs are nested under.
PARENT_FILE = "parent.json"

_GROUPS = (
    "model",
    "dataset",
    "backbone",
    "head",
    "optimizer",
    "scheduler",
    "augment",
    "features",
    "trainer",
    "selection",
    "experiment",
)


@dataclass
class RunContext:
    """What a run is told from outside its own configuration.

    Attributes:
        folder: Where its files go.
        composed: The configuration as YAML with its interpolations, without what belongs to a sweep.
        resolved: The same with every interpolation resolved.
        overrides: What was typed, or chosen by a sweep, in Hydra's override grammar.
        choices: The choice made in each config group.
        parent_run_id: The tracking run it is nested under.
        number: Its number among the jobs of a sweep.
        tags: Further tags for its tracking run.
        resume: Whether to go on from what its folder holds.
        resume_id: The tracking run to go on with, where one is known.
        name: What its tracking run is called, where a sweep names it by what was chosen for it; else as its config.
        swept: What the sweep chose for it, by key.
    """

    folder: Path
    composed: str
    resolved: str
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    parent_run_id: str | None = None
    number: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    resume: bool = False
    resume_id: str | None = None
    name: str | None = None
    swept: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_hydra(cls, config: DictConfig) -> RunContext:
        """The context of the job that Hydra is running now."""
        hydra = HydraConfig.get()
        choices = {group: str(hydra.runtime.choices[group]) for group in _GROUPS if hydra.runtime.choices.get(group)}
        swept = hydra.mode == RunMode.MULTIRUN
        keys = read_swept(Path(hydra.sweep.dir)) if swept else []
        typed = overrides_by_key(hydra.overrides.task)
        chosen = {key: plain(typed[key]) for key in keys if key in typed}
        return cls(
            folder=Path(hydra.runtime.output_dir),
            composed=OmegaConf.to_yaml(without_sweep(config)),
            resolved=plain_yaml(to_plain(config)),
            overrides=[text for text in hydra.overrides.task if not is_sweep_override(text)],
            choices=choices,
            parent_run_id=read_parent(Path(hydra.sweep.dir)) if swept else None,
            number=int(hydra.job.num) if swept else None,
            name=run_name(str(config.get("name", "run")), chosen, keys) if chosen else None,
            swept=chosen,
        )


def refuse_sweep_keys(hydra: HydraConf) -> None:
    """Refuse keys of a sweep where there is a single run, which would ignore them.

    Raises:
        UserError: Naming the first.
    """
    for text in hydra.overrides.task if hydra.mode != RunMode.MULTIRUN else ():
        if is_sweep_override(text) and split_override(text)[1] not in ("", "null"):
            raise UserError(
                f"{text} is of a sweep, and this is a single run",
                "add -m and sweep a key, or name a search: search=seeds",
            )


def write_parent(folder: Path, run_id: str, swept: Sequence[str] = ()) -> None:
    """Say in a sweep's folder which tracking run its jobs belong under, and by which keys they differ."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{PARENT_FILE}"
    partial.write_text(json.dumps({"run_id": run_id, "swept": [*swept]}), encoding="utf-8")
    partial.replace(folder / PARENT_FILE)


def read_parent(folder: Path) -> str | None:
    """The tracking run that the jobs in a sweep's folder belong under, if it has one."""
    file = folder / PARENT_FILE
    return str(json.loads(file.read_text(encoding="utf-8"))["run_id"]) if file.exists() else None


def read_swept(folder: Path) -> list[str]:
    """The keys by which the jobs in a sweep's folder differ; none where an older version wrote it."""
    file = folder / PARENT_FILE
    return list(map(str, json.loads(file.read_text(encoding="utf-8")).get("swept", ()))) if file.exists() else []
