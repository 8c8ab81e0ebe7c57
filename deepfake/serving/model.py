"""What a service asks of a detector, whatever it is made of: a run of this project, or an exported folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class File:
    """One file to be answered for.

    Attributes:
        path: Where it lies.
        name: What whoever sent it calls it, harmless to show.
        kind: ``video`` or ``image``.
        folder: Of its own, for what is made of it; removed once it is answered.
    """

    path: Path
    name: str
    kind: str
    folder: Path


@dataclass(frozen=True)
class Overlay:
    """A file with what its answer leans on painted over it.

    Attributes:
        path: Where it lies, a video or a picture.
        timeline: The scores along its time: ``seconds``, ``score`` and ``face`` of each frame that was looked at.
        note: Why no map is painted, in a sentence; empty where one is.
    """

    path: Path
    timeline: list[dict[str, Any]]
    note: str = ""


class OverlayError(Exception):
    """There is no overlay of a file: why, for people."""


class Model(Protocol):
    """A detector that is loaded."""

    @property
    def name(self) -> str:
        """Of the run or folder."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What every answer says of the detector: ``schema``, ``run``, ``threshold`` and so on."""

    @property
    def suffixes(self) -> Mapping[str, str]:
        """The suffixes of files that it takes, each with ``video`` or ``image``."""

    @property
    def overlays(self) -> bool:
        """Whether it makes overlays."""

    async def start(self) -> None:
        """Start the processes that read files."""

    async def prepare(self, file: File) -> Any:
        """Read a file, in a process that it may break; at most as many at once as there are workers, others wait."""

    def answer(self, prepared: Sequence[Any]) -> list[dict[str, Any]]:
        """The results of prepared files, as ``deepfake predict --json`` has them; called by one thread at a time."""

    async def overlay(self, file: File) -> Overlay:
        """A video with what the answer leans on painted over it, and the scores along its time.

        Raises:
            OverlayError: There is none.
        """

    def restarts(self) -> int:
        """Processes that were replaced since the start."""

    async def close(self) -> None:
        """End all processes."""
