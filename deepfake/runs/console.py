"""What a person sees while a command works: lines, progress bars, tables. Knows numbers and names only."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from deepfake.errors import UserError, harmless
from deepfake.metrics import METRICS, metric_names
from deepfake.progress import in_notebook, line_console

if TYPE_CHECKING:
    from IPython.display import DisplayHandle


#: Columns of what is printed where nothing says how wide it may be.
_WIDTH = 200


def megabytes(size: int) -> str:
    """Bytes for a person: ``0.3 MB``, ``1.25 GB``."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


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
        self._out = line_console(self._file, quiet=quiet, soft_wrap=True)
        self._quiet = quiet

    def say(self, text: str) -> None:
        """One line, as it is but for what would do something to the terminal."""
        self._out.print(Text(harmless(text)))

    def confirm(self, question: str, hint: str) -> bool:
        """Ask for a yes; whatever else is answered is a no.

        Args:
            question: A line.
            hint: What to do where nobody can be asked.

        Raises:
            UserError: Standard input is no terminal.
        """
        if not sys.stdin.isatty():
            raise UserError(f"{question} nobody can be asked here", hint)
        self._out.print(Text(harmless(f"{question} [y/N] ")), end="")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def warn(self, text: str) -> None:
        """One line that starts with ``warning:``, on standard error."""
        if not self._quiet:
            print(f"warning: {harmless(text)}", file=sys.stderr)

    def table(self, table: Table) -> None:
        """A table, never folded narrower than its content where the output is not a terminal."""
        if self._out.is_terminal:
            self._out.print(table)
        else:
            self.show(table)

    def show(self, parts: RenderableType) -> None:
        """Anything rich can print, as wide as :meth:`table`."""
        if self._out.is_terminal:
            RichConsole(file=self._file, quiet=self._quiet).print(parts)
        elif in_notebook() and not self._quiet:
            _display(parts)
        else:
            RichConsole(file=self._file, width=_WIDTH, quiet=self._quiet, highlight=False).print(parts)

    @contextmanager
    def redrawing(self) -> Iterator[Live | None]:
        """What is drawn anew in place while entered; None where the output is no terminal."""
        if self._quiet or not self._out.is_terminal:
            yield None
            return
        with Live(console=RichConsole(file=self._file), auto_refresh=False) as live:
            yield live

    def progress(self) -> Bar | NotebookBar:
        """A bar with count, rate and time left; drawn only on a terminal, and as a line of text in a notebook."""
        return NotebookBar() if in_notebook() and not self._quiet else Bar(self._out)


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


def _display(parts: RenderableType) -> None:
    """Show something in a notebook as HTML that is scrolled, not folded; rich's own holds a terminal's codes too."""
    from IPython.display import display

    out = RichConsole(file=io.StringIO(), width=_WIDTH, record=True, highlight=False, force_jupyter=False)
    out.print(parts)
    style = "white-space: pre; overflow-x: auto; line-height: normal; font-family: Menlo, 'DejaVu Sans Mono', monospace"
    page = out.export_html(inline_styles=True, clear=False, code_format=f'<pre style="{style}">{{code}}</pre>')
    display({"text/html": page, "text/plain": out.export_text()}, raw=True)  # type: ignore[no-untyped-call,unused-ignore]


class NotebookBar:
    """The same in a notebook: one line below the cell that is overwritten, for work that takes more than a moment."""

    _EVERY = 1.0  # seconds from one line to the next

    def __init__(self) -> None:
        self._line: DisplayHandle | None = None
        self._text, self._total, self._done = "", 0, 0
        self._began = self._last = 0.0

    def start(self, total: int, text: str) -> None:
        """Begin a new count of ``total`` items."""
        self._text, self._total, self._done = text, total, 0
        self._began = self._last = time.monotonic()

    def advance(self, n: int = 1) -> None:
        """``n`` more items are done."""
        self._done += n
        now = time.monotonic()
        if now - self._last >= self._EVERY:
            self._last = now
            rate = self._done / (now - self._began)
            left = timedelta(seconds=round(max(0, self._total - self._done) / rate))
            self._show(f"{self._text}: {self._done} of {self._total}, {rate:.1f}/s, {left} left")

    def stop(self) -> None:
        """The count is over; the line stays until the next or the end."""

    def __enter__(self) -> NotebookBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line is not None:
            self._show("")

    def _show(self, text: str) -> None:
        from IPython.display import DisplayHandle

        shown = {"text/plain": text}
        if self._line is None:
            self._line = DisplayHandle()
            self._line.display(shown, raw=True)
        else:
            self._line.update(shown, raw=True)


def epoch_line(epoch: int, epochs: int, metrics: Mapping[str, float]) -> str:
    """One epoch's losses, metrics and rate; ``epoch`` counts from 0, people from 1."""
    parts = [f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"]
    named = {"train/loss": "train loss", "val/loss": "val loss"}
    named |= {f"val/{name}": METRICS[name].title for name in metric_names(headline=True)}
    parts += [f"{text} {metrics[name]:.4f}" for name, text in named.items() if name in metrics]
    parts += [f"{metrics['samples_per_second']:.0f} clips/s"] if "samples_per_second" in metrics else []
    return "  ".join(parts)


def end_lines(folder: Path, metrics: Mapping[str, float], ui_command: str | None, leaning: Sequence[str] = ()) -> str:
    """The test split's metrics, the run's folder, and how to look at it; a sweep says that for all of its runs.

    Args:
        folder: The run's.
        metrics: Its numbers.
        ui_command: Opens it in the browser; None leaves that out.
        leaning: What it leans on beside the face, a sentence each.
    """
    shown = ", ".join(
        f"{name} {metrics[f'test/{name}']:.4f}" if f"test/{name}" in metrics else f"{name} not available"
        for name in metric_names(headline=True)
    )
    told = [*_probe_line(metrics), *leaning]
    lines = [f"test: {shown} (epoch {int(metrics['best_epoch'])})", *told, f"run: {folder}"]
    return "\n".join([*lines, *([] if ui_command is None else [f"look at it in the browser: {ui_command}"])])


def _probe_line(metrics: Mapping[str, float]) -> list[str]:
    """How far the test split was solved by the backbone before it was trained."""
    if "test/gain_over_probe" not in metrics:
        return []
    gain, low, high = (metrics.get(f"test/gain_over_probe{end}") for end in ("", "_low", "_high"))
    bounds = "" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]"
    probe = f"ROC-AUC {metrics['test/probe_roc_auc']:.4f} by a linear probe on the untrained backbone"
    return [f"solved before: {probe}; this run's gain over it is {gain:+.4f}{bounds}"]
