"""How far long work is: what whoever draws a bar is told, one that draws none, and where lines are printed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


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


def line_console(file: IO[str] | None = None, *, quiet: bool = False, soft_wrap: bool = False) -> Console:
    """A console for lines: in a notebook, whose output says that it is a terminal and is none, plain text.

    rich itself would make a piece of HTML of every line there.
    """
    from rich.console import Console

    plain = {"force_jupyter": False, "force_terminal": False} if in_notebook() else {}
    return Console(file=file, quiet=quiet, highlight=False, soft_wrap=soft_wrap, **plain)  # type: ignore[arg-type]


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    from rich.console import Console

    return Console().is_jupyter


@contextmanager
def bar(progress: Progress | None, total: int, text: str) -> Iterator[Progress]:
    """A bar for the length of a block, stopped however the block ends; None draws none."""
    progress = progress or NoProgress()
    progress.start(total, text)
    try:
        yield progress
    finally:
        progress.stop()
