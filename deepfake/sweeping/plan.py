"""What every process of one study must agree on, plain enough to be sent to another machine.

Holds no open file and no connection; :mod:`deepfake.sweeping.study` opens it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepfake.sweeping.observer import Objective
from deepfake.sweeping.space import Parameter
from deepfake.sweeping.storage import Location


@dataclass(frozen=True)
class StudyPlan:
    """One start of a study.

    Attributes:
        fixed: The overrides that hold for every trial.
        setting: The rest of the config, key to value, without what may differ between two starts.
        total: How many trials the study is to have, over all its starts.
        began: When this start began, in seconds since the epoch; failures in a row are counted from here.
        deadline: The same clock; no trial starts after it.
        warm: Points to try first.
    """

    name: str
    folder: Path
    location: Location
    parameters: list[Parameter]
    objectives: list[Objective]
    fixed: list[str]
    total: int
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    seed: int = 0
    retries: int = 3
    heartbeat: float = 30.0
    max_failures: int | None = None
    began: float = field(default_factory=time.time)
    deadline: float | None = None
    setting: Mapping[str, str] = field(default_factory=dict)
    warm: Sequence[Mapping[str, Any]] = ()


def fingerprint(
    parameters: Sequence[Parameter], objectives: Sequence[Objective], setting: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """What may not change under one study's name, as section, key and meaning."""
    return {
        "space": {parameter.key: parameter.describe() for parameter in parameters},
        "objective": {item.metric: item.direction for item in objectives},
        "setting": dict(setting),
    }


def differences(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What changed between two fingerprints, each change in a few words.

    A setting that only one of them has came or went with a version of the program and is no change.
    """
    changes = []
    for section in now:
        old, new = before.get(section, {}), now[section]
        for key in sorted({*old, *new}):
            if key in new and key in old:
                changes += [f"{section} {key} was {old[key]} and is {new[key]}"] if old[key] != new[key] else []
            elif section != "setting":
                changes.append(f"{section} {key} is {'new' if key in new else 'gone'}")
    return changes
