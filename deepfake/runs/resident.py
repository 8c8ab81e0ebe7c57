"""A trained run that stays loaded and answers for many callers: files are read as they come, scored together.

The same crops, scores and words as :mod:`deepfake.runs.answers`, in two steps: reading, in processes that a file may
break, and scoring, of all files that are ready at once. It is what :class:`deepfake.serving.model.Model` asks for."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepfake.data.crop_records import Record, read_frames
from deepfake.data.cropping import CutSettings
from deepfake.data.media import KINDS
from deepfake.data.worker_pool import phases
from deepfake.reading.along import timeline_of
from deepfake.reading.file_answers import Answer, Input
from deepfake.runs.answers import Originals, alike, look_at_crops, read_looks
from deepfake.runs.load import Ensemble, Trained
from deepfake.serving.cutting import Cutting
from deepfake.serving.limits import Limits
from deepfake.serving.model import File, Overlay
from deepfake.serving.overlays import Painting
from deepfake.training.decision import meaning

_NAME = "file"  # of the one sample that is prepared at a time

Describe = Callable[[Trained | Ensemble, Sequence[Answer]], dict[str, Any]]


@dataclass(frozen=True)
class _Prepared:
    """A file that was read: what came of it for each kind of crops, and where those lie."""

    file: File
    records: tuple[Record, ...]
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class _Group:
    """Detectors that read the same crops, and who cuts these."""

    settings: CutSettings
    members: list[Trained]
    originals: Originals
    cutting: Cutting


class Resident:
    """A run, or an ensemble, at the service of a server.

    Args:
        trained: Loaded. Its run may be deleted afterwards.
        changes: What was laid over it: overlays are made by a process that loads it anew.
        folder: For crops.
        limits: How many processes, and what a file may take.
        describe: Answers into what programs are told, as ``deepfake predict --json`` does.
    """

    suffixes: Mapping[str, str] = KINDS

    def __init__(
        self,
        trained: Trained | Ensemble,
        changes: Sequence[str],
        folder: Path,
        limits: Limits,
        describe: Describe,
    ) -> None:
        self._trained = trained
        self._folder = folder / "crops"
        self._folder.mkdir()
        self._describe = describe
        self.name = trained.record.name
        # An ensemble's members look at crops of their own.
        self.overlays = isinstance(trained, Trained)
        told = {key: value for key, value in describe(trained, []).items() if key != "results"}
        # A client types no flags.
        self.description = {**told, "probability_means": meaning(trained.decision).replace(" (--prior)", "")}
        self._groups = [
            _Group(
                settings,
                members,
                Originals(members[0].record, limits.file_seconds),
                Cutting(settings, self._folder, limits),
            )
            for settings, members in alike(trained)
        ]
        opens = {"run": str(trained.record.places[0]), "changes": list(changes)}
        gone = "the run that it is made with is not there any more"
        self._painting = Painting("deepfake.runs.painting", opens, limits, gone)

    async def start(self) -> None:
        """Start the processes that read files; the one that paints starts at the first overlay."""
        for group in self._groups:
            await group.cutting.start()
        self._painting.start()

    def restarts(self) -> int:
        """Processes that were replaced since the start."""
        return sum(group.cutting.restarts for group in self._groups)

    async def close(self) -> None:
        """End all processes."""
        await asyncio.gather(self._painting.close(), *(group.cutting.close() for group in self._groups))

    async def prepare(self, file: File) -> _Prepared:
        """Cut the crops of a file, for each kind of detector."""
        records, folders = [], []
        for number, group in enumerate(self._groups):
            folder = file.folder / f"crops-{number}"
            folder.mkdir()
            one = Input(file.path, file.kind)
            jobs = await asyncio.to_thread(group.originals.jobs, {_NAME: one})
            found: Record = {}
            for phase in phases(jobs, folder, group.settings):
                for job in phase:
                    found = await group.cutting.cut(job, folder)
            records.append(found)
            folders.append(folder)
        return _Prepared(file, tuple(records), tuple(folders))

    def answer(self, prepared: Sequence[_Prepared]) -> list[dict[str, Any]]:
        """Score files that were read, all together."""
        names = [str(place) for place in range(len(prepared))]
        looks: dict[str, list[Any]] = {name: [] for name in names}
        timelines: dict[str, list[dict[str, Any]]] = {}
        for number, group in enumerate(self._groups):
            folder = self._folder / uuid.uuid4().hex
            folder.mkdir()
            try:
                records = {name: one.records[number] for name, one in zip(names, prepared, strict=True)}
                for name, one in zip(names, prepared, strict=True):
                    _gather(records[name], one.folders[number], folder)
                for name, look in look_at_crops(group.members, records, folder, group.settings):
                    looks[name].append(look)
                    if isinstance(self._trained, Trained) and records[name]["status"] == "ok":
                        timelines[name] = timeline_of(
                            records[name], read_frames(folder, records[name]), look.clips.tolist()
                        )
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        answers = [
            read_looks(self._trained, Input(one.file.path, one.file.kind), looks[name])
            for name, one in zip(names, prepared, strict=True)
        ]
        results = self._describe(self._trained, answers)["results"]
        return [
            {**result, **({"timeline": timelines[name]} if timelines.get(name) and not result["reason"] else {})}
            for name, result in zip(names, results, strict=True)
        ]

    async def overlay(self, file: File) -> Overlay:
        """A video with what the answer leans on painted over it, and the scores along its time.

        Raises:
            OverlayError: There is none.
        """
        return await self._painting.overlay(file)


def _gather(record: Record, folder: Path, target: Path) -> None:
    """Move the crops of a file to those that are scored with it; parts have names that are theirs alone."""
    if "part" in record:
        for suffix in (".u8", ".frames"):
            (folder / record["part"]).with_suffix(suffix).replace((target / record["part"]).with_suffix(suffix))
