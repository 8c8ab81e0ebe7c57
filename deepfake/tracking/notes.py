"""Descriptions that MLflow shows as Markdown: of a run, of a sweep and of an experiment.

Arranges what is given; asks nobody.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from deepfake.metrics import METRICS, Interval, metric_names
from deepfake.tracking import tables
from deepfake.tracking.view import COMPARED, run_page, sweep_page

#: The tag that holds a description, of a run and of an experiment.
NOTE = "mlflow.note.content"
#: Rows of a sweep's table; ``comparison.md`` among its artifacts has all.
MOST_ROWS = 20


@dataclass(frozen=True)
class SweepFacts:
    """What a sweep's description says beside its runs.

    Attributes:
        name: The sweep's, as ``best:NAME`` takes it.
        run_id: Its run, empty where no server knows it yet.
        experiment: Its experiment's id, empty as well.
        command: What was typed.
        objective: The metric that its runs are ranked by.
        what: How many runs over what.
    """

    name: str
    run_id: str
    experiment: str
    command: str
    objective: str
    what: str

    @property
    def _pages(self) -> list[str]:
        if not (self.run_id and self.experiment):
            return []
        pages = {"table": False, "charts": True}
        links = (f"[{what}]({sweep_page('', self.experiment, self.run_id, charts=on)})" for what, on in pages.items())
        return [f"Compare its runs: {' · '.join(links)}"]

    def begun(self, before: str = "") -> str:
        """While it runs.

        Args:
            before: The table of its last end, where it goes on.
        """
        told = [f"Going on: {self.what}. From its last end:", before] if before else [f"Running: {self.what}."]
        return _joined([*told, *self._pages, *self._commands(next_steps=False)])

    def ended(self, status: str, ranked: pd.DataFrame, columns: Sequence[str]) -> str:
        """At an end of it.

        Args:
            status: How it ended.
            ranked: Its runs, best first: ``run``, ``run_id``, ``status`` and their metrics.
            columns: Which of them to show beside the run.
        """
        best = tables.best_place(ranked, self.objective)
        counted = f"{self.what}; {status}."
        if best is None:
            return _joined([f"No run has {self.objective}: there is nothing to compare. {counted}", *self._commands()])
        value = tables.cell(float(ranked[self.objective].iloc[best]))
        told = f"**Best by {tables.heading(self.objective)}: {self._linked(ranked.iloc[best])}, {value}.** {counted}"
        shown = [column for column in columns if column not in ("run", "status")]
        lines = [
            f"| Run | {' | '.join(tables.escaped(tables.heading(column)) for column in shown)} |",
            f"| --- | {' | '.join('---:' for _ in shown)} |",
        ]
        some = ranked.head(MOST_ROWS)
        for place, cells in enumerate(tables.cells(some, shown)):
            row = [self._linked(some.iloc[place]), *map(tables.escaped, cells)]
            if (ended := str(some.iloc[place].get("status", "finished"))) != "finished":
                row[0] += f" ({ended})"
            lines.append(f"| {' | '.join(row)} |")
        more = len(ranked) - len(some)
        left = [f"{more} more in `comparison.md` among the artifacts."] if more else []
        return _joined([told, "\n".join(lines), *left, *self._pages, *self._commands()])

    def _linked(self, row: pd.Series) -> str:
        run_id, name = row.get("run_id"), tables.escaped(str(row["run"]))
        if not (self.experiment and isinstance(run_id, str) and run_id):
            return name
        return f"[{name}]({run_page('', self.experiment, run_id)})"

    def _commands(self, *, next_steps: bool = True) -> list[str]:
        name, best = shlex.quote(self.name), shlex.quote(f"best:{self.name}")
        made = ["Made by, and goes on with:", _shell([self.command])] if self.command else []
        if not next_steps:
            return made
        further = [
            f"deepfake compare --sweep {name}   # which differences are real",
            f"deepfake evaluate {best} dataset=images dataset.root=/data/other_faces",
            f"deepfake reproduce {best}",
        ]
        return [*made, "Next:", _shell(further)]


def run_note(reference: str, metrics: Mapping[str, float], warnings: Sequence[str], *, trained: bool = True) -> str:
    """A run's result, what its data's audit warns of, and what can be done with it.

    Args:
        reference: What commands take for it.
        metrics: As it logs them; without those of the test split it has no result yet.
        warnings: The audit's.
        trained: Whether it was trained, and can be once more.
    """
    told = "No result yet."
    if any(name in metrics for name in COMPARED):
        numbers = ", ".join(f"{METRICS[name].title} {_number(metrics, name)}" for name in metric_names(headline=True))
        epoch = f" (epoch {int(metrics['best_epoch'])})" if "best_epoch" in metrics else ""
        told = f"**Test: {numbers}**{epoch}"
    run = shlex.quote(reference)
    commands = [
        f"deepfake evaluate {run} dataset=images dataset.root=/data/other_faces",
        f"deepfake predict {run} clip.mp4 photos/",
        *([f"deepfake reproduce {run}"] if trained else []),
    ]
    return _joined([told, *_warned(warnings), *([_shell(commands)] if told != "No result yet." else [])])


def experiment_note(dataset: str, counts: Mapping[str, Mapping[str, int]], warnings: Sequence[str]) -> str:
    """The data set of an experiment's newest run: its counts and what its audit warns of.

    Args:
        dataset: Its name.
        counts: Samples by split and class.
        warnings: The audit's.
    """
    classes = list(dict.fromkeys(name for numbers in counts.values() for name in numbers))
    rows = [(split, *(numbers.get(name, 0) for name in classes)) for split, numbers in counts.items()]
    whole = sum(sum(numbers.values()) for numbers in counts.values())
    lines = [f"| split | {' | '.join(classes)} |", f"| --- | {' | '.join('---:' for _ in classes)} |"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    told = f"**{tables.escaped(dataset)}**: {whole} samples, as the newest run read it."
    return _joined([told, "\n".join(lines), *(_warned(warnings) or ["The audit warns of nothing."])])


def _number(metrics: Mapping[str, float], name: str) -> str:
    value = metrics.get(f"test/{name}")
    if value is None:
        return "not available"
    ends = [metrics.get(end) for end in tables.interval_of(f"test/{name}")]
    if ends[0] is None or ends[1] is None:
        return tables.cell(float(value))
    return str(Interval(value, ends[0], ends[1]))


def _warned(warnings: Sequence[str]) -> list[str]:
    listed = "\n".join(f"- {tables.escaped(warning)}" for warning in warnings)
    return ["The audit of its data warns:", listed] if warnings else []


def _shell(commands: Sequence[str]) -> str:
    return "\n".join(["```sh", *commands, "```"])


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part.strip() for part in parts) + "\n"
