"""What one sees while a study runs: a live table on a terminal, a line per ended trial elsewhere.

Only looks at trials; changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deepfake.sweeping.jobs import pick_best
from deepfake.sweeping.observer import COMPLETED, PRUNED, Job
from deepfake.sweeping.outcome import brief, finished_jobs, shown, trial_to_job
from deepfake.sweeping.plan import StudyPlan

_MOST_ROWS = 12


class Display:
    """Shows a study's progress.

    Args:
        live: Redraw a table in place; only where nothing else writes to the same terminal.
        workers: How many trials run at a time, for the time left.
    """

    def __init__(self, plan: StudyPlan, workers: int, live: bool, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._plan = plan
        self._workers = workers
        self._live = Live(console=self.console, auto_refresh=False) if live and self.console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, soft_wrap=True, markup=False)

    def ended(self, job: Job, trials: Sequence[FrozenTrial]) -> None:
        """A trial has ended."""
        if self._live is None:
            self.say(f"{self._outcome(job)}  {brief(job.overrides)}\n  {self.summary(trials)}")

    def refresh(self, trials: Sequence[FrozenTrial]) -> None:
        """Draw anew."""
        if self._live is not None:
            self._live.update(Group(Text(self.summary(trials)), self._table(trials)), refresh=True)

    def summary(self, trials: Sequence[FrozenTrial]) -> str:
        """``12/20 ended (3 pruned, 1 failed), 2 running, best val/roc_auc 0.93 (trial 7), about 4 min left``."""
        jobs = finished_jobs(trials, self._plan)
        pruned = sum(job.status == PRUNED for job in jobs)
        failed = sum(job.status not in (PRUNED, COMPLETED) for job in jobs)
        notes = [f"{count} {word}" for count, word in ((pruned, "pruned"), (failed, "failed")) if count]
        parts = [
            f"{self._plan.name}: {len(jobs)}/{self._plan.total} ended" + (f" ({', '.join(notes)})" if notes else "")
        ]
        running = sum(trial.state is TrialState.RUNNING for trial in trials)
        parts += [f"{running} running"] if running else []
        best = pick_best(jobs, self._plan.objectives)
        if len(self._plan.objectives) > 1:
            parts += [f"{len(best)} on the Pareto front"] if best else []
        elif best:
            parts.append(f"best {self._plan.objectives[0].metric} {shown(best[0].values[0])} (trial {best[0].number})")
        left = self._time_left(jobs, trials)
        return ", ".join(parts + ([f"about {left} left"] if left else []))

    def _time_left(self, jobs: Sequence[Job], trials: Sequence[FrozenTrial]) -> str:
        seconds = [job.seconds for job in jobs if job.seconds]
        left = self._plan.total - len(jobs)
        if not seconds or left <= 0:
            return ""
        total = sum(seconds) / len(seconds) * left / max(1, min(self._workers, left))
        if self._plan.deadline is not None:
            total = min(total, max(0.0, self._plan.deadline - self._plan.clock.now()))
        return f"{total:.0f} s" if total < 100 else f"{total / 60:.0f} min" if total < 5400 else f"{total / 3600:.1f} h"

    def _outcome(self, job: Job) -> str:
        if job.status == COMPLETED:
            pairs = zip(self._plan.objectives, job.values, strict=True)
            return f"trial {job.number}: " + ", ".join(f"{item.metric} {shown(value)}" for item, value in pairs)
        return f"trial {job.number} {job.status}" + (f": {job.reason}" if job.reason else "")

    def _table(self, trials: Sequence[FrozenTrial]) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "state", "epoch", "value", "chosen"):
            table.add_column(name, justify="left" if name in ("state", "chosen") else "right", overflow="fold")
        running = [trial for trial in trials if trial.state is TrialState.RUNNING]
        ended = [trial for trial in trials if trial.state.is_finished()]
        for trial in [*ended[-max(0, _MOST_ROWS - len(running)) :], *running]:
            table.add_row(*self._row(trial))
        return table

    def _row(self, trial: FrozenTrial) -> list[str]:
        epoch = "" if trial.last_step is None else str(trial.last_step)
        if trial.state is TrialState.RUNNING:
            value = None if trial.last_step is None else trial.intermediate_values[trial.last_step]
            chosen = " ".join(f"{key}={shown(v) if isinstance(v, float) else v}" for key, v in trial.params.items())
            return [str(trial.number), "running", epoch, shown(value), chosen]
        job = trial_to_job(trial, self._plan.parameters)
        chosen = job.reason or brief(job.overrides)
        return [str(job.number), job.status, epoch, " ".join(map(shown, job.values)), chosen]
