"""All that is there of a sweep: its study, its folder, its runs in MLflow; and deleting it whole.

Begun again, a deletion that was cut short is finished: what the sweep is found by goes last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake import presence
from deepfake.errors import UserError, masked, nearest
from deepfake.runs.context import read_parent
from deepfake.sweeping.callbacks import DELETING
from deepfake.tracking.removal import LeftError, is_ours, remove, taken
from deepfake.tracking.run_folder import write_json
from deepfake.tracking.store import Store
from deepfake.tracking.sweep_runs import SweepRuns

if TYPE_CHECKING:
    from deepfake.sweeping.deletion import StoredStudy

#: So many references or processes are named.
_MOST_NAMED = 5


@dataclass
class Sweep:
    """What there is of a sweep.

    Attributes:
        name: Its name, that of its folder.
        folder: Its folder, which may be gone.
        outputs: Below which everything that may be deleted lies.
        store: Where its runs are remembered.
        study: Its entry in a study storage; None for a grid.
        runs: Its runs in MLflow.
    """

    name: str
    folder: Path
    outputs: Path
    store: Store
    study: StoredStudy | None
    runs: SweepRuns

    @property
    def run_folders(self) -> list[Path]:
        """The folders of its runs."""
        found = self.folder.iterdir() if self.folder.is_dir() and not self.folder.is_symlink() else ()
        return sorted((one for one in found if one.name.isdigit() and one.is_dir()), key=lambda one: int(one.name))

    def describe(self) -> list[str]:
        """What goes when it is deleted, a line each."""
        lines = []
        if self.study is not None:
            lines.append(f"study {self.study.name} in {self.study.location}")
        if self.folder.is_dir():
            count = len(self.run_folders)
            lines.append(f"{self.folder}, with {count} run folder{'' if count == 1 else 's'}")
        if len(self.runs):
            lines.append(f"{len(self.runs)} runs in {masked(self.store.uri)}, with their artifacts and models")
        return lines

    def bytes(self) -> int:
        """What it takes on disk: what lies under several names counts once."""
        return taken([self.folder, *self.runs.places])


def list_sweeps(outputs: Path) -> list[Path]:
    """The folders of sweeps, newest first."""
    found = [one for one in (outputs / "sweeps").glob("*") if one.is_dir() and not one.is_symlink()]
    return sorted(found, key=lambda one: -one.stat().st_mtime)


def find_sweep(reference: str, store: Store, outputs: Path, storage: str | None = None, deleting: bool = True) -> Sweep:
    """The sweep that a user means.

    Args:
        reference: Its name, or its folder.
        store: Where runs are remembered.
        outputs: Below which sweeps lie.
        storage: ``sweep.storage``, where it was typed.
        deleting: Whether it is to be deleted, so that its folder must lie there; else it may lie anywhere.

    Raises:
        UserError: There is nothing of it, its storage or store cannot be opened, or its folder lies elsewhere.
    """
    from deepfake.sweeping.deletion import stored_study

    path = Path(reference).expanduser()
    name = Path(os.path.normpath(path.absolute())).name if "/" in reference else reference
    folder = Path(os.path.normpath(path.absolute())) if "/" in reference else outputs / "sweeps" / reference
    if name in ("", ".", ".."):
        raise UserError(f"{reference!r} is no sweep", "name one: deepfake sweep lists them")
    if deleting and os.path.lexists(folder) and not is_ours(folder, [outputs / "sweeps"]):
        raise UserError(
            f"{folder} is a link, or lies outside of {outputs / 'sweeps'}",
            "nothing outside of the outputs is deleted: say where they are with paths.outputs=",
        )
    study = stored_study(folder, name, storage)
    runs = SweepRuns(name, folder, read_parent(folder), store)
    if not folder.is_dir() and not len(runs) and study is None:
        known = [one.name for one in list_sweeps(outputs)]
        raise UserError(f"there is no sweep {name!r} in {outputs / 'sweeps'} or {store.uri}", nearest(name, known))
    return Sweep(name, folder, outputs, store, study, runs)


def delete_sweep(sweep: Sweep, say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Delete all that is there of a sweep.

    Args:
        sweep: As :func:`find_sweep` found it; what :func:`check_deletable` says is asked for again.
        say: Told what is waited for.

    Returns:
        The bytes that are free now, and what was left, a line each.

    Raises:
        UserError: Somebody is at work on it, or refers to its weights; nothing was deleted.
    """
    from deepfake.sweeping.deletion import delete_study

    left: list[str] = []
    freed = 0
    try:
        with presence.alone(sweep.folder):
            check_deletable(sweep, say)
            if sweep.folder.is_dir():
                write_json(sweep.folder / DELETING, {"began": time.time()})
            freed += sweep.runs.remove_children(left.append)
            if sweep.study is not None and not sweep.study.inside:
                delete_study(sweep.study)
            freed += sweep.runs.remove_parents(left.append)
            if sweep.folder.is_dir():
                freed += _remove_folder(sweep)
    except presence.InUseError as error:
        raise _busy(sweep, [str(error)]) from error
    except (OSError, LeftError) as error:
        raise UserError(f"{sweep.folder} cannot be deleted whole: {error}", "the same command goes on") from error
    return freed, left


def check_deletable(sweep: Sweep, say: Callable[[str], None]) -> None:
    """Refuse a sweep that somebody is at work on, or whose weights somebody refers to.

    Raises:
        UserError: Names who.
    """
    from deepfake.sweeping.deletion import workers_of

    workers = [] if sweep.study is None else workers_of(sweep.study, say)
    runs = sweep.runs.at_work
    if workers or runs:
        raise _busy(sweep, workers or [f"run {name}" for name in runs])
    found = sweep.runs.referred(sweep.outputs, sweep.run_folders)
    if found:
        raise UserError(
            f"sweep {sweep.name} is referred to by {_listed(found)}",
            "delete that first, or keep the sweep: what refers to its weights would lose them",
        )


def _remove_folder(sweep: Sweep) -> int:
    """The sweep's folder; what says that it is being deleted goes last."""
    freed = 0
    for path in sorted(sweep.folder.iterdir(), key=lambda one: one.name == DELETING):
        if path.is_symlink():
            path.unlink()
        elif path.name != presence.NAME:
            freed += remove(path, [sweep.folder])
    presence.discard(sweep.folder)
    return freed


def _busy(sweep: Sweep, who: Sequence[str]) -> UserError:
    return UserError(f"sweep {sweep.name} is at work: {_listed(who)}", "stop it first, or wait for its end")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
