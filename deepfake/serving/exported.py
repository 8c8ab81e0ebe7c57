"""An exported folder at the service of a server: no torch, no run. It is what :class:`deepfake.serving.model.Model`
asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepfake.data.media import KINDS
from deepfake.data.prepare_worker import Job
from deepfake.reading import Detector
from deepfake.reading.along import timeline_of
from deepfake.reading.detector import Cut
from deepfake.reading.file_answers import Input, as_result
from deepfake.reading.folder import DIGESTS, digest
from deepfake.serving.cutting import Cutting
from deepfake.serving.limits import Limits
from deepfake.serving.model import File, Overlay
from deepfake.serving.overlays import Painting


class Exported:
    """A folder that ``deepfake export`` wrote.

    Args:
        detector: Loaded.
        folder: Any that is there, for the processes that read files.
        limits: How many processes, and what a file may take.
    """

    suffixes: Mapping[str, str] = KINDS
    overlays = True

    def __init__(self, detector: Detector, folder: Path, limits: Limits) -> None:
        self._detector = detector
        self._limits = limits
        self._cutting = Cutting(detector.settings, folder, limits)
        opens = {"folder": str(detector.folder.absolute()), "digest": digest(detector.folder / DIGESTS)}
        gone = "the folder that it is made with is not there any more, or was altered"
        self._painting = Painting("deepfake.serving.exported_painting", opens, limits, gone)
        self.name = detector.name
        self.description = {key: value for key, value in detector.document([]).items() if key != "results"}

    async def start(self) -> None:
        """Start the processes that read files; the one that paints starts at the first overlay."""
        await self._cutting.start()
        self._painting.start()

    def restarts(self) -> int:
        """Processes that were replaced since the start."""
        return self._cutting.restarts

    async def close(self) -> None:
        """End all processes."""
        await self._painting.close()
        await self._cutting.close()

    async def prepare(self, file: File) -> Cut:
        """Cut the crops of a file."""
        folder = file.folder / "crops"
        folder.mkdir()
        job = Job("file", file.path, file.kind, seconds=self._limits.file_seconds)
        return Cut(Input(Path(file.name), file.kind), await self._cutting.cut(job, folder), folder)

    def answer(self, prepared: Sequence[Cut]) -> list[dict[str, Any]]:
        """Score files that were read, all together."""
        results = []
        for one, answer in zip(prepared, self._detector.read(prepared), strict=True):
            timeline = [] if answer.reason else timeline_of(one.record, one.frames, answer.clips)
            results.append({**as_result(answer), **({"timeline": timeline} if timeline else {})})
        return results

    async def overlay(self, file: File) -> Overlay:
        """A video with what the answer leans on painted over it, and the scores along its time.

        Raises:
            OverlayError: There is none.
        """
        return await self._painting.overlay(file)
