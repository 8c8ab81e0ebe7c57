"""An exported folder at the service of a server: no torch, no run. It is what :class:`deepfake.serving.model.Model`
asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepfake.data.crop_records import Record
from deepfake.data.media import KINDS
from deepfake.data.prepare_worker import Job
from deepfake.reading import Detector
from deepfake.serving.cutting import Cutting
from deepfake.serving.limits import Limits
from deepfake.serving.model import File, OverlayError


@dataclass(frozen=True)
class _Prepared:
    file: File
    record: Record
    folder: Path


class Exported:
    """A folder that ``deepfake export`` wrote.

    Args:
        detector: Loaded.
        folder: Any that is there, for the processes that read files.
        limits: How many processes, and what a file may take.
    """

    suffixes: Mapping[str, str] = KINDS
    overlays = False

    def __init__(self, detector: Detector, folder: Path, limits: Limits) -> None:
        self._detector = detector
        self._limits = limits
        self._cutting = Cutting(detector.settings, folder, limits)
        self.name = detector.name
        self.description = {key: value for key, value in detector.document([]).items() if key != "results"}

    async def start(self) -> None:
        """Start the processes that read files."""
        await self._cutting.start()

    def restarts(self) -> int:
        """Processes that were replaced since the start."""
        return self._cutting.restarts

    async def close(self) -> None:
        """End them."""
        await self._cutting.close()

    async def prepare(self, file: File) -> _Prepared:
        """Cut the crops of a file."""
        folder = file.folder / "crops"
        folder.mkdir()
        job = Job("file", file.path, file.kind, seconds=self._limits.file_seconds)
        return _Prepared(file, await self._cutting.cut(job, folder), folder)

    def answer(self, prepared: Sequence[_Prepared]) -> list[dict[str, Any]]:
        """Score files that were read."""
        return [self._detector.answer(Path(one.file.name), one.record, one.folder, one.file.kind) for one in prepared]

    async def overlay(self, file: File) -> tuple[Path, list[dict[str, Any]]]:
        """Never: maps take weights that gradients go through.

        Raises:
            OverlayError: Always.
        """
        raise OverlayError("an exported folder makes none; serve the run itself")
