"""How far long work is: what whoever draws a bar is told, and one that draws none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """One bar at a time, counted in samples or clips."""

    def start(self, total: int, text: str) -> None:
        """Begin a bar of ``total`` steps with a text that says what is being done."""

    def advance(self, n: int = 1) -> None:
        """``n`` more are done."""

    def stop(self) -> None:
        """The bar that was begun is over, finished or not."""


class NoProgress:
    """Draws nothing."""

    def start(self, total: int, text: str) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass

    def stop(self) -> None:
        pass


@contextmanager
def bar(progress: Progress | None, total: int, text: str) -> Iterator[Progress]:
    """A bar for the length of a block, stopped however the block ends; None draws none."""
    progress = progress or NoProgress()
    progress.start(total, text)
    try:
        yield progress
    finally:
        progress.stop()
