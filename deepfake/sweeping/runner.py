"""Runs a study from beginning to end: starts its workers, shows its progress and writes its results.

Trials are run by :mod:`deepfake.sweeping.agent`: here, in a pool of processes, or on a cluster.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

from filelock import FileLock
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deepfake.compat import is_basic_launcher
from deepfake.errors import sigterm_interrupts
from deepfake.progress import line_console
from deepfake.sweeping.agent import work
from deepfake.sweeping.callbacks import (
    COMPLETED,
    FAILED,
    LOCK,
    PAUSED,
    PRUNED,
    Job,
    SweepCallback,
    SweepInfo,
    SweepResult,
    notify,
)
from deepfake.sweeping.claims import Claims
from deepfake.sweeping.commands import DONE, REPLACED, WORKERS
from deepfake.sweeping.constraints import nearest_to_feasible
from deepfake.sweeping.facts import PAUSED as RUNG
from deepfake.sweeping.facts import PAUSED_AT, is_held, is_paused
from deepfake.sweeping.forecast import lasting
from deepfake.sweeping.jobs import JobRunner, pick_best
from deepfake.sweeping.keeping import Contest
from deepfake.sweeping.launcher import Launched
from deepfake.sweeping.options import SweepOptions
from deepfake.sweeping.pool import Pool
from deepfake.sweeping.remaining import Terms, remaining
from deepfake.sweeping.repeats import deviation
from deepfake.sweeping.results import (
    brief,
    draw_study,
    finished_jobs,
    importances,
    result_table,
    shown,
    spread,
    spread_table,
    trial_to_job,
    write_best,
    write_spread,
    write_trials,
)
from deepfake.sweeping.schedule import standing
from deepfake.sweeping.study import Study
from deepfake.sweeping.study_plan import StudyPlan

#: Rows of the table that is drawn while a study runs, and failed trials named at its end.
_MOST_ROWS, _MOST_FAILED = 12, 5
#: How often the study is read while workers run its trials.
_LOOK_SECONDS = 0.2


def run_study(
    runner: JobRunner,
    plan: StudyPlan,
    options: SweepOptions,
    callback: SweepCallback,
    start: Callable[[SweepInfo], None],
    keep: int | None = None,
) -> SweepResult:
    """Run what is left of a study.

    Args:
        options: How many trials run at a time, which are tried again, and what the end shows.
        keep: See :attr:`SweepInfo.keep`.
        start: Called with what is about to run, before the first trial.

    Raises:
        UserError: The study cannot be opened, or all its trials stumble over the same mistake.
    """
    study = Study(plan)
    workers = options.n_jobs
    notes = _prepare(study, options)
    info = replace(_describe(study), keep=keep)
    launcher = runner.create_launcher()
    basic = is_basic_launcher(launcher)
    here = workers == 1 and basic
    start(info)
    status = "interrupted"
    try:
        study.sign("here" if here else "pool" if basic else "launched", workers)
        with sigterm_interrupts(), Display(plan, workers, live=not here) as display:
            watch = _Watcher(study, display, callback, info)
            for note in [*_resumed_note(study), *notes, *_note_of_fusing(plan, runner)]:
                display.say(note)
            if here:
                _work_here(study, runner, watch, display)
            elif basic:
                pool = Pool(study, runner, workers)
                for note in pool.notes:
                    display.say(note)
                _work_apart(study, pool, watch)
            else:
                _work_apart(study, Launched(study, runner, workers, display.say), watch)
        trials = study.trials()
        status = "finished" if study.schedule.is_done(trials) else "stopped"
    finally:
        study.sign_off(status)
        # Another terminal on the same study may end at the same time and write the same files.
        with FileLock(str(plan.folder / LOCK)):
            if status != "interrupted":
                notify("which runs its trials have", lambda: _note_runs(study, callback, info))
            result = _gather(study, runner, info, status, options.report)
            if status != "interrupted" and study.schedule.mistake is None:
                # Before the callback, which has the last word.
                _print_result(study, display, result, options.report, again=again_command(runner.config))
            notify("the end of the sweep", lambda: callback.sweep_finished(result))
    if study.schedule.mistake is not None:
        raise study.schedule.mistake
    return result


class _Watcher:
    """Shows what ends or is paused from this start on, once, and calls the callback for what has ended."""

    def __init__(self, study: Study, display: Display, callback: SweepCallback, info: SweepInfo) -> None:
        self._study, self._display, self._callback, self._info = study, display, callback, info
        trials = study.trials()
        self._reported = {trial.number for trial in trials if trial.state.is_finished()}
        self._paused = {trial.number: trial.user_attrs[PAUSED_AT] for trial in trials if is_paused(trial)}
        self._contest = None if info.keep is None else Contest(study.plan.objectives, info.keep)
        self._entered: set[int] = set()

    def look(self) -> list[FrozenTrial]:
        """Report what has ended since the last look; returns all trials."""
        trials = self._study.trials()
        for trial in trials:
            if is_paused(trial) and self._paused.get(trial.number) != trial.user_attrs[PAUSED_AT]:
                self._paused[trial.number] = trial.user_attrs[PAUSED_AT]
                self._display.ended(trial_to_job(trial, self._study.plan), trials)
            if not trial.state.is_finished() or trial.number in self._reported:
                continue
            self._reported.add(trial.number)
            job = trial_to_job(trial, self._study.plan)
            self._display.ended(job, trials)
            owner = trial.user_attrs.get("owner") or {}
            # Another terminal on the same study reports those that it started.
            if str(owner.get("token", "")).startswith(self._study.owner["token"]):
                self._notify(job)
        self._compare(trials)
        self._display.refresh(trials)
        return trials

    def _compare(self, trials: Sequence[FrozenTrial]) -> None:
        """Call the callback for what can no longer win, whoever ran it."""
        if self._contest is None:
            return
        beaten: list[Job] = []
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._entered:
                self._entered.add(trial.number)
                beaten += self._contest.enter(trial_to_job(trial, self._study.plan))
        tell = getattr(self._callback, "jobs_beaten", None)
        if beaten and tell is not None:
            notify("which trials were beaten", lambda: tell(self._info, beaten))

    def say(self, text: str) -> None:
        """A line of what has changed."""
        self._display.say(text)

    def _notify(self, job: Job) -> None:
        notify(f"trial {job.number}", lambda: self._callback.job_finished(self._info, job))


def _work_here(study: Study, runner: JobRunner, watch: _Watcher, display: Display) -> None:
    def look(_: Job) -> None:
        watch.look()

    work(
        Claims(study),
        runner,
        finished=look,
        waiting=lambda: display.say("waiting for trials that run in another terminal or on another machine"),
    )
    watch.look()


def _work_apart(study: Study, workers: Pool | Launched, watch: _Watcher) -> None:
    with workers:
        while True:
            trials = watch.look()
            stopping = bool(study.schedule.is_done(trials) or study.stop_reason(trials))
            if not stopping and isinstance(workers, Pool):
                _resize(study, workers, watch)
            workers.look_after(stopping)
            if workers.is_idle():
                break
            time.sleep(_LOOK_SECONDS)
    watch.look()


def _resize(study: Study, pool: Pool, watch: _Watcher) -> None:
    """Act on the latest number of workers that somebody asked for."""
    asked = study.asked(WORKERS)
    for command in asked:
        said = pool.resize(int(command.value)) if command is asked[-1] else ""
        status, why = (DONE, said) if said else (REPLACED, f"by command {asked[-1].number}")
        study.ride_out(partial(study.ledger.answer, command.number, status, why))
        if said:
            watch.say(f"{command.value} workers, as {command.by} said: {said}")
            study.sign("pool", int(command.value))


def _describe(study: Study) -> SweepInfo:
    plan = study.plan
    return SweepInfo(
        name=plan.name,
        kind="study",
        folder=plan.folder,
        total=plan.total,
        objectives=plan.objectives,
        overrides=plan.fixed,
        space={parameter.key: parameter.text for parameter in plan.parameters},
        resumed=study.resumed,
        storage=str(plan.location),
        constraints=[str(one) for one in plan.constraints],
        seeds=[] if plan.repeats is None else plan.repeats.seeds(),
        seed_key=None if plan.repeats is None else plan.repeats.key,
    )


def _prepare(study: Study, options: SweepOptions) -> list[str]:
    """Queue what is to be tried first, or again; what the user should know of it."""
    plan = study.plan
    study.enqueue(plan.warm)
    for source, points in plan.borrowed.items():
        study.enqueue(points, source)
    again = study.retry(options.retry) if options.retry is not None else []
    notes = [f"tried again: {_listed(again)}"] if again else []
    changed = study.note_code()
    notes += [f"warning: {changed}"] if changed else []
    trials = standing(study.trials())
    waiting = sum(trial.state is TrialState.WAITING for trial in trials)
    room = waiting if plan.total is None else plan.total - (len(trials) - waiting)
    if plan.total is not None and waiting > max(room, 0):
        notes.append(
            f"warning: {waiting} points wait to be tried, and the study has room for {max(room, 0)} more trials: "
            f"sweep.n_trials={plan.total + waiting - max(room, 0)} tries them all"
        )
    order = [] if study.order is None else study.order.notes(options.n_jobs, plan)
    return [*plan.notes, *order, *notes]


def _resumed_note(study: Study) -> list[str]:
    if not study.resumed:
        return []
    plan, trials = study.plan, standing(study.trials())
    done = sum(trial.state.is_finished() for trial in trials)
    failed = sum(trial.state is TrialState.FAIL for trial in trials)
    of_them = f", {failed} of them failed: sweep.retry=failed tries those again" if failed else ""
    paused = sum(map(is_paused, trials))
    waiting = f"; {paused} {'is' if paused == 1 else 'are'} paused" if paused else ""
    of = f"{done} trial{'' if done == 1 else 's'}" if plan.total is None else f"{done} of {plan.total} trials"
    spent = "" if plan.budget is None else f", {plan.budget.describe(study.trials())} spent"
    return [f"study {plan.name} goes on: {of} {'has' if done == 1 else 'have'} ended{of_them}{waiting}{spent}"]


def _note_of_fusing(plan: StudyPlan, runner: JobRunner) -> list[str]:
    if plan.fuse == 1 or runner.together is not None:
        return []
    return [f"note: sweep.fuse={plan.fuse}: jobs of this app are run one at a time in each worker"]


def _seeds(job: Job) -> str:
    return f"seeds {', '.join(str(run.seed) for run in job.runs)}"


def _listed(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _note_runs(study: Study, callback: SweepCallback, info: SweepInfo) -> None:
    """Record the runs of trials that had none by name when they ended or were paused."""
    ask = getattr(callback, "runs_named", None)
    told = (trial.user_attrs for trial in study.trials() if trial.state.is_finished() or is_paused(trial))
    if ask is not None and any(facts.get("run_dir") and not facts.get("run_id") for facts in told):
        study.note_runs(ask(info))


def _gather(study: Study, runner: JobRunner, info: SweepInfo, status: str, report: str) -> SweepResult:
    trials = study.last_trials() if status == "interrupted" else study.with_runs(study.trials())
    plan = study.plan
    jobs = finished_jobs(trials, plan)
    best = pick_best(jobs, plan.objectives)
    files: list[Path] = [write_trials(trials, plan, plan.folder)]
    if report == "spread":
        files.append(write_spread(spread(jobs, plan), plan.folder))
    if best:
        files.append(write_best(best[0], plan, runner.context.config_loader, plan.folder))
    if status != "interrupted" and any(job.status == COMPLETED for job in jobs):
        files += draw_study(trials, plan, plan.folder / "figures")
    return SweepResult(info, jobs, best, status, files, importances(trials, plan.objectives))


def _print_result(study: Study, display: Display, result: SweepResult, report: str, again: str) -> None:
    plan = study.plan
    trials = study.trials()
    reason = study.stop_reason(trials) or study.left_to_people(trials) if result.status == "stopped" else None
    if reason:
        display.say(f"stopped: {reason}; the same command goes on")
    if report == "spread":
        completed = sum(job.status == COMPLETED for job in result.jobs)
        of = len(result.jobs) if plan.total is None else plan.total
        display.say(f"{plan.name}: mean and spread, {completed} of {of} runs completed")
        display.console.print(spread_table(spread(result.jobs, plan), plan.objectives))
    elif len(plan.objectives) > 1:
        display.say(f"{plan.name}: the Pareto front")
        display.console.print(result_table(result.best, plan.objectives, most=50))
    elif result.best:
        best = result.best[0]
        value = f"{plan.objectives[0].metric} {shown(best.values[0])}"
        if best.runs:
            spread_of = deviation(best.runs, plan.objectives[0].metric)
            value += f" on average over {_seeds(best)}, standard deviation {shown(spread_of)}"
        display.say(f"best of {len(result.jobs)} trials: {value} (trial {best.number}), {brief(best.overrides)}")
        if best.runs:
            display.say(
                f"its runs: {' '.join(shlex.quote(_near(Path(run.run_dir))) for run in best.runs if run.run_dir)}"
            )
    elif found := nearest_to_feasible(plan.constraints, [job for job in result.jobs if job.status == COMPLETED]):
        kept = ", ".join(map(str, plan.constraints))
        display.say(f"no trial keeps {kept}; trial {found[0].number} is nearest: {found[1]}")
    if reason := study.schedule.stopping.reason():
        display.say(f"ended: {reason}")
    for line in _left_note(study, result):
        display.say(line)
    tried = {tuple(job.overrides) for job in result.jobs}
    if result.status == "finished" and plan.points == len(tried):
        display.say(f"all {plan.points} points of the space have been tried")
    for job in result.failed[:_MOST_FAILED]:
        where = f" ({shlex.quote(_near(Path(job.traceback)))})" if job.traceback else ""
        display.say(f"trial {job.number} failed: {job.reason}{where}")
    if result.failed:
        display.say(f"{len(result.failed)} of {len(result.jobs)} trials failed; sweep.retry=failed tries them again")
    for path in result.files:
        if path.suffix == ".yaml":
            display.say(f"best: {again}{shlex.quote(f'experiment={_near(path)}')}")
    display.say(f"study: optuna-dashboard {shlex.quote(str(plan.location.url or plan.location.journal))}")


def _left_note(study: Study, result: SweepResult) -> list[str]:
    """What was spent, and what is paused and may be gone on with."""
    plan, paused = study.plan, sum(job.status == PAUSED for job in result.jobs)
    notes = [] if plan.budget is None else [f"spent: {plan.budget.describe(study.trials())}"]
    if paused:
        many = f"{paused} trial{' is' if paused == 1 else 's are'} paused"
        how = "sweep.budget" if plan.budget is not None else "sweep.n_trials"
        notes.append(f"{many}, resumable: the same command with a larger {how} goes on with those that rise")
    return notes


class Display:
    """Shows a study's progress.

    Args:
        live: Redraw a table in place; only where nothing else writes to the same terminal.
        workers: How many trials run at a time, for the time left.
    """

    def __init__(self, plan: StudyPlan, workers: int, live: bool, console: Console | None = None) -> None:
        self.console = console or line_console()
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
        """A trial has ended, or is paused."""
        if self._live is None:
            self.say(f"{self._outcome(job)}  {brief(job.overrides)}\n  {self.summary(trials)}")

    def refresh(self, trials: Sequence[FrozenTrial]) -> None:
        """Draw anew."""
        if self._live is not None:
            self._live.update(Group(Text(self.summary(trials)), self._table(trials)), refresh=True)

    def summary(self, trials: Sequence[FrozenTrial]) -> str:
        """``12/20 ended (3 pruned, 1 failed), 2 running, best val/roc_auc 0.93 (trial 7), 4 min to 5 min left``."""
        told = finished_jobs(trials, self._plan)
        jobs = [job for job in told if job.status != PAUSED]
        counts = ((word, sum(job.status == word for job in jobs)) for word in (PRUNED, FAILED))
        notes = [f"{count} {word}" for word, count in counts if count]
        of = "" if self._plan.total is None else f"/{self._plan.total}"
        parts = [f"{self._plan.name}: {len(jobs)}{of} ended" + (f" ({', '.join(notes)})" if notes else "")]
        paused = len(told) - len(jobs)
        parts += [f"{paused} paused"] if paused else []
        running = sum(trial.state is TrialState.RUNNING and not is_paused(trial) for trial in trials)
        parts += [f"{running} running"] if running else []
        parts += [self._plan.budget.describe(trials)] if self._plan.budget is not None else []
        best = pick_best(jobs, self._plan.objectives)
        if len(self._plan.objectives) > 1:
            parts += [f"{len(best)} on the Pareto front"] if best else []
        elif best:
            parts.append(f"best {self._plan.objectives[0].metric} {shown(best[0].values[0])} (trial {best[0].number})")
        left = self._time_left(trials)
        return ", ".join(parts + ([f"{left} left"] if left else []))

    def _time_left(self, trials: Sequence[FrozenTrial]) -> str:
        plan, counted = self._plan, standing(trials)
        promotes = plan.promotion is not None
        terms = Terms(plan.total, plan.budget, promotes, self._workers, plan.fuse, plan.deadline)
        running = [trial for trial in counted if trial.state is TrialState.RUNNING and not is_paused(trial)]
        _, seconds = remaining(counted, running, terms, plan.clock.now())
        return "" if seconds is None else lasting(seconds)

    def _outcome(self, job: Job) -> str:
        if job.status == COMPLETED:
            pairs = zip(self._plan.objectives, job.values, strict=True)
            return f"trial {job.number}: " + ", ".join(f"{item.metric} {shown(value)}" for item, value in pairs)
        return f"trial {job.number} {job.status}" + (f": {job.reason}" if job.reason else "")

    def _table(self, trials: Sequence[FrozenTrial]) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "state", "epoch", "value", "chosen"):
            table.add_column(name, justify="left" if name in ("state", "chosen") else "right", overflow="fold")
        running = [trial for trial in trials if trial.state is TrialState.RUNNING and not is_paused(trial)]
        ended = [trial for trial in trials if trial.state.is_finished() or is_paused(trial)]
        for trial in [*ended[-max(0, _MOST_ROWS - len(running)) :], *running]:
            table.add_row(*self._row(trial))
        return table

    def _row(self, trial: FrozenTrial) -> list[str]:
        epoch = "" if trial.last_step is None else str(trial.last_step)
        if trial.state is TrialState.RUNNING and not is_paused(trial):
            value = None if trial.last_step is None else trial.intermediate_values[trial.last_step]
            chosen = " ".join(f"{key}={shown(v) if isinstance(v, float) else v}" for key, v in trial.params.items())
            return [str(trial.number), "running", epoch, shown(value), chosen]
        job = trial_to_job(trial, self._plan)
        if job.status == PAUSED:
            last = shown(trial.intermediate_values.get(trial.last_step or 0))
            where = "by hand" if is_held(trial) else f"rung {trial.user_attrs[RUNG]}"
            return [str(job.number), f"paused, {where}", epoch, last, brief(job.overrides)]
        chosen = job.reason or brief(job.overrides)
        return [str(job.number), job.status, epoch, " ".join(map(shown, job.values)), chosen]


def again_command(config: DictConfig) -> str:
    """How this app is called with another experiment, up to ``experiment=``."""
    script = Path(sys.argv[0])
    if config.hydra.job.name == "deepfake":
        # Called from Python: what was typed is another program.
        return "deepfake train "
    if script.suffix == ".py" and script.stem != "__main__":
        called = f"python {shlex.quote(_near(script.absolute()))}"
    else:
        called = "deepfake train" if script.stem == "deepfake" else f"python {config.hydra.job.name}.py"
    return f"{called} " if "experiment" in config.hydra.runtime.choices else f"{called} +"


def _near(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return os.path.relpath(path) if len(os.path.relpath(path)) < len(str(path)) else str(path)
    return str(path)
