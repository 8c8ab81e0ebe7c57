"""What lies on disk that no living run refers to: crops, features, probes, artifacts of deleted runs; and removing it.

A run lives while its folder is there or MLflow has not deleted it. What a process is at work with is left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deepfake.data.crop_store import list_stores, remove_store
from deepfake.errors import UserError
from deepfake.presence import InUseError, alone
from deepfake.tracking import run_folder as files
from deepfake.tracking.leftovers import Artifacts, LivingRuns, artifacts_of_deleted
from deepfake.tracking.removal import LeftError, remove, taken
from deepfake.tracking.run_record import RunRecord, misfit
from deepfake.tracking.store import Store

_RUN_ID = re.compile(r"[0-9a-f]{32}")
#: What an evaluation's numbers say of the crops that they were made from.
_EVALUATION = {"data": {"crops": (str, type(None))}}


@dataclass(frozen=True)
class Unused:
    """Something that no living run refers to.

    Attributes:
        kind: ``crops``, ``features``, ``probes``, ``backbones``, ``artifacts`` or ``downloads``.
        name: What it is called.
        places: Its folders and files.
        bytes: What its removal frees.
        artifacts: Of a run that was deleted.
    """

    kind: str
    name: str
    places: tuple[Path, ...]
    bytes: int
    artifacts: Artifacts | None = field(default=None, repr=False)


@dataclass
class Uses:
    """The keys of all that living runs refer to."""

    crops: set[str] = field(default_factory=set)
    features: set[str] = field(default_factory=set)
    probes: set[str] = field(default_factory=set)

    def add(self, run: RunRecord) -> None:
        """Take in what a run says of itself.

        Raises:
            UserError: What it says cannot be read, so that nobody knows what it needs.
        """
        if run.fetch is not None and run.status == "FINISHED" and not run.has(files.PROVENANCE):
            raise UserError(
                f"the folder of run {run} is gone, and its server does not give {files.PROVENANCE}: "
                "nobody knows what it needs",
                "prune while the server answers, or delete that run in MLflow",
            )
        if run.has(files.PROVENANCE):
            crops = _read(run, files.PROVENANCE, _EVALUATION).get("data", {}).get("crops")
            self.crops |= {crops} if crops else set()
        if run.has(files.USES):
            said = _read(run, files.USES, {"crops": [str], "probes": [str]})
            self.crops |= set(said.get("crops", []))
            self.probes |= set(said.get("probes", []))
        self.features |= set(run.features())
        for place in run.places:
            for file in place.glob(f"eval/*/{files.METRICS}"):
                data = _load(file, _EVALUATION).get("data", {})
                self.crops |= {data["crops"]} if data.get("crops") else set()


def find_unused(outputs: Path, cache: Path, store: Store) -> list[Unused]:
    """All that no living run refers to, the largest of each kind first; nothing is changed.

    Args:
        outputs: Where run folders lie.
        cache: Where crops and features are kept.
        store: Where runs are remembered; of a server only what lies on this disk is found.

    Raises:
        UserError: The store cannot be opened, or a living run does not say what it needs.
    """
    living = LivingRuns(outputs, store)
    uses = Uses()
    for run in living.records():
        uses.add(run)
    found = [
        Unused("crops", info.key, (info.path,), info.bytes) for info in list_stores(cache) if info.key not in uses.crops
    ]
    found += [
        Unused("features", folder.name, (folder,), taken([folder]))
        for folder in (cache / "features").glob("*")
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in uses.features
    ]
    found += [
        Unused("probes", file.stem, (file,), taken([file]))
        for file in (cache / "probes").glob("*.json")
        if file.stem not in uses.probes
    ]
    found += [
        Unused("backbones", file.stem, (file,), taken([file]))
        for file in (cache / "backbones").glob("*.safetensors")
        # Each model that is made of it is one more name.
        if file.stat().st_nlink == 1
    ]
    found += [
        Unused("downloads", folder.name, (folder,), taken([folder]))
        for folder in (cache / "artifacts").glob("*")
        if living.ids is not None and _RUN_ID.fullmatch(folder.name) and folder.name not in living.ids
    ]
    found += [
        Unused("artifacts", one.name, tuple(one.places), one.bytes, one) for one in artifacts_of_deleted(outputs, store)
    ]
    return sorted(found, key=lambda one: (one.kind, -one.bytes))


def remove_unused(unused: Sequence[Unused], cache: Path) -> tuple[int, list[str]]:
    """Remove what was found; what somebody has begun to use since is left.

    Returns:
        The bytes that are free now, and what was left, a line each.
    """
    freed, left = 0, []
    for one in unused:
        try:
            freed += _remove(one, cache)
        except (LeftError, OSError) as error:
            left.append(str(error))
    return freed, left


def _remove(one: Unused, cache: Path) -> int:
    if one.artifacts is not None:
        return one.artifacts.remove()
    (place,) = one.places
    if one.kind == "crops":
        if not remove_store(place):
            raise LeftError(f"the crops {one.name} are in use: left")
        return one.bytes
    if one.kind == "backbones":
        try:
            with alone(place.parent):
                return remove(place, [cache]) if place.exists() and place.stat().st_nlink == 1 else 0
        except InUseError as error:
            raise LeftError(f"the backbone {one.name} is in use: left") from error
    if one.kind != "features":
        return remove(place, [cache])
    # As those who compute them lock them.
    lock = FileLock(place.with_name(f"{place.name}.lock"))
    try:
        with lock.acquire(timeout=0):
            return remove(place, [cache])
    except Timeout as error:
        raise LeftError(f"the features {one.name} are in use: left") from error


def _read(run: RunRecord, name: str, shape: object) -> dict[str, Any]:
    return _load(run.file(name), shape)


def _load(file: Path, shape: object) -> dict[str, Any]:
    why = "it cannot be read"
    with suppress(OSError, ValueError):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not (why := misfit(found, shape)):
            return dict(found)
    raise UserError(
        f"{file} is damaged: {why}; so nobody knows what its run needs",
        "restore it, or delete the folder of that run, and prune again",
    )
