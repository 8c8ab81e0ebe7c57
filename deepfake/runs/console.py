"""What a person sees while a command works: lines, progress bars, tables. Knows numbers and names only."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from deepfake.errors import harmless
from deepfake.metrics import METRICS, metric_names


class RateColumn(TextColumn):
    """Items a second."""

    def __init__(self) -> None:
        super().__init__("{task.speed}")

    def render(self, task: object) -> Text:
        """The rate, once there is one."""
        speed = getattr(task, "finished_speed", None) or getattr(task, "speed", None)
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


class Console:
    """Plain lines, tables and bars; silent where ``quiet``, on standard error where ``aside``.

    Commands whose standard output is for other programs speak aside.
    """

    def __init__(self, quiet: bool = False, aside: bool = False) -> None:
        self._file = sys.stderr if aside else sys.stdout
        self._out = RichConsole(file=self._file, quiet=quiet, highlight=False, soft_wrap=True)
        self._quiet = quiet

    def say(self, text: str) -> None:
        """One line, as it is but for what would do something to the terminal."""
        self._out.print(Text(harmless(text)))

    def warn(self, text: str) -> None:
        """One line that starts with ``warning:``, on standard error."""
        if not self._quiet:
            print(f"warning: {harmless(text)}", file=sys.stderr)

    def table(self, table: Table) -> None:
        """A table, never folded narrower than its content where the output is not a terminal."""
        if self._out.is_terminal:
            self._out.print(table)
        else:
            RichConsole(file=self._file, width=200, quiet=self._quiet, highlight=False).print(table)

    def show(self, parts: RenderableType) -> None:
        """Anything rich can print, as wide as :meth:`table`."""
        RichConsole(file=self._file, width=None if self._out.is_terminal else 200, quiet=self._quiet).print(parts)

    def progress(self) -> Bar:
        """A bar with count, rate and time left; drawn only on a terminal."""
        return Bar(self._out)


class Bar:
    """The progress protocol of data and training: start, advance, stop."""

    def __init__(self, out: RichConsole) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(),
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self._task: TaskID | None = None

    def start(self, total: int, text: str) -> None:
        """Begin a new bar of ``total`` items."""
        self.stop()
        self._progress.start()
        self._task = self._progress.add_task(text, total=total)

    def advance(self, n: int = 1) -> None:
        """``n`` more items are done."""
        if self._task is not None:
            self._progress.update(self._task, advance=n)

    def stop(self) -> None:
        """Take the bar away."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
            self._progress.stop()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def epoch_line(epoch: int, epochs: int, metrics: Mapping[str, float]) -> str:
    """One epoch's losses, metrics and rate; ``epoch`` counts from 0, people from 1."""
    parts = [f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"]
    named = {"train/loss": "train loss", "val/loss": "val loss"}
    named |= {f"val/{name}": METRICS[name].title for name in metric_names(headline=True)}
    parts += [f"{text} {metrics[name]:.4f}" for name, text in named.items() if name in metrics]
    parts += [f"{metrics['samples_per_second']:.0f} clips/s"] if "samples_per_second" in metrics else []
    return "  ".join(parts)


def end_lines(folder: Path, metrics: Mapping[str, float], ui_command: str | None) -> str:
    """The test split's metrics, the run's folder, and how to look at it; a sweep says that for all of its runs."""
    shown = ", ".join(
        f"{name} {metrics[f'test/{name}']:.4f}" if f"test/{name}" in metrics else f"{name} not available"
        for name in metric_names(headline=True)
    )
    lines = [f"test: {shown} (epoch {int(metrics['best_epoch'])})", f"run: {folder}"]
    return "\n".join([*lines, *([] if ui_command is None else [f"look at it in the browser: {ui_command}"])])
