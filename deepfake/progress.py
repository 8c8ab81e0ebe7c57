"""How the loop tells how far it is. The front door draws bars with it; here nothing is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """One bar at a time, counted in clips."""

    def start(self, total: int, text: str) -> None:
        """Begin a bar of ``total`` clips that says what is being done."""

    def advance(self, n: int) -> None:
        """``n`` more are done."""

    def stop(self) -> None:
        """The bar that was begun is over, finished or not."""


class Silent:
    """Tells nobody."""

    def start(self, total: int, text: str) -> None:
        pass

    def advance(self, n: int) -> None:
        pass

    def stop(self) -> None:
        pass


@contextmanager
def bar(progress: Progress, total: int, text: str) -> Iterator[Progress]:
    """A bar for the length of a block, stopped however the block ends."""
    progress.start(total, text)
    try:
        yield progress
    finally:
        progress.stop()
