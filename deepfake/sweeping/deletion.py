"""A study that is to go: where it is stored, who is still at work on it, and removing its entry. Knows Optuna."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from deepfake.sweeping.heartbeat import Watch, host_of, process_of
from deepfake.sweeping.storage import (
    Location,
    exclusively,
    open_existing,
    open_storage,
    stored_at,
)
from deepfake.sweeping.study import quietly

#: Between two looks at the heartbeats of other machines.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class StoredStudy:
    """A study in its storage.

    Attributes:
        name: Its own.
        location: The storage.
        inside: Whether that is a file in the sweep's folder, which goes with it.
    """

    name: str
    location: Location
    inside: bool


def stored_study(folder: Path, name: str, storage: str | None) -> StoredStudy | None:
    """The study of a sweep's folder; None where it has none, as a grid, or it is gone.

    Args:
        folder: The sweep's; need not exist.
        name: The study's.
        storage: ``sweep.storage``, where it was typed.

    Raises:
        UserError: It is kept on a server, which only its address with user and password leads to, or cannot be read.
    """
    location = stored_at(folder, storage)
    if location is None:
        return None
    file = _file(location)
    if file is not None and not file.is_file():
        return None
    found = StoredStudy(name, location, file is not None and file.parent == folder)
    names = optuna.get_all_study_names(open_existing(location))
    if name in names:
        return found
    if found.inside and len(names) == 1:
        # One whose folder was named by hand.
        return StoredStudy(names[0], location, inside=True)
    return None


def workers_of(study: StoredStudy, say: Callable[[str], None]) -> list[str]:
    """The processes that run trials of a study, in a few words each.

    Of this machine they are known at once; another machine's heartbeats are waited for, three at most.

    Args:
        study: Which.
        say: Told what is waited for.
    """
    file = _file(study.location)
    if file is not None and not file.is_file():
        return []
    try:
        found = optuna.load_study(study_name=study.name, storage=open_existing(study.location))
    except KeyError:
        return []
    watch, began, limit = Watch(), time.monotonic(), 0.0
    beats: dict[int, object] = {}
    while True:
        running = found.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        owned = [(trial, trial.user_attrs["owner"]) for trial in running if trial.user_attrs.get("owner") is not None]
        living = [(trial, owner) for trial, owner in owned if not watch.is_dead(owner, trial.user_attrs.get("beat"))]
        for trial, owner in living:
            beat = trial.user_attrs.get("beat")
            if owner["host"] == watch.host or beats.setdefault(trial.number, beat) != beat:
                return [_told(trial, owner) for trial, owner in living]
        if not living:
            return []
        if not limit:
            limit = max(3 * float(owner["heartbeat"]) for _, owner in living)
            say(f"waiting for signs of life from {host_of(living[0][1])}, {limit:.0f} s at most")
        if time.monotonic() - began > limit + 10 * _LOOK_SECONDS:
            return []
        time.sleep(_LOOK_SECONDS)


def delete_study(study: StoredStudy) -> None:
    """Remove a study's entry from its storage; one that is gone already is no mistake."""
    storage = open_storage(study.location)
    with quietly(), exclusively(study.location, storage), suppress(KeyError):
        optuna.delete_study(study_name=study.name, storage=storage)


def _told(trial: FrozenTrial, owner: Mapping[str, Any]) -> str:
    return f"{process_of(owner)} (trial {trial.number})"


def _file(location: Location) -> Path | None:
    """The file of a storage; None for a server."""
    from sqlalchemy.engine import make_url

    if location.journal is not None:
        return location.journal
    url = make_url(str(location.url))
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" and url.database else None
