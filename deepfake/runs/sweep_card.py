"""The page of a sweep, and the charts that it shares with any comparison of runs.

History, importance of keys, parallel coordinates, Pareto fronts, learning curves. Draws what sweeps and runs say of
themselves; trains and scores nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from deepfake.metrics import metric_names
from deepfake.options import overrides_by_key
from deepfake.sweeping.callbacks import FAILED, PAUSED, PRUNED, Job, Objective, SweepInfo, SweepResult
from deepfake.sweeping.repeats import deviation
from deepfake.tracking import page, tables
from deepfake.tracking.figures import svg
from deepfake.tracking.figures.selection import series
from deepfake.tracking.run_folder import HISTORY
from deepfake.tracking.tables import Report, Section

#: Beyond so many runs lines and intervals are drawn of the best ones only.
_LINES, _INTERVALS = 300, 20
_PAIRS = 3  # of objectives
_KEYS = 9  # axes of parallel coordinates
_NAMED = 24  # values of a key that is no number, beyond which it is a name rather than a choice
_POINTS = 60  # of a learning curve that is kept for later
_APART = 6.0  # units of a drawing between two points of a ROC curve that is kept so
#: Metrics that are shown beside what a sweep looked for.
SHOWN = (
    *(f"test/{name}" for name in metric_names(headline=True)),
    "test/gain_over_probe",
    "best_epoch",
    "train_seconds",
)
#: Where a trial is in a study that promotes: the highest rung it has reached, and its bracket.
PLACES = ("rung", "bracket")
#: Columns of a sweep whose jobs are run over several seeds: the objective's sample deviation, and over which.
DEVIATION, SEEDS = "standard deviation", "seeds"
#: The metric with intervals that is drawn beside what a sweep was sorted by.
_TESTED = "test/roc_auc"

Curves = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass(frozen=True)
class Board:
    """Runs to be drawn, best first.

    Attributes:
        runs: A row each: ``run``, what was chosen, metrics, ``<metric>_low`` and ``<metric>_high``.
        keys: The columns of what was chosen.
        objectives: What was looked for, the first one first.
        importances: How much each key mattered; empty where unknown.
    """

    runs: pd.DataFrame
    keys: Sequence[str]
    objectives: Sequence[Objective]
    importances: Mapping[str, float]

    @property
    def metric(self) -> str:
        """The first objective's metric."""
        return self.objectives[0].metric

    @property
    def scored(self) -> pd.DataFrame:
        """The runs that have the metric."""
        runs = self.runs
        if self.metric not in runs:
            return runs.iloc[:0]
        return runs[np.isfinite(runs[self.metric].to_numpy(np.float64))]


def write_sweep_card(result: SweepResult, runs: pd.DataFrame) -> Path:
    """``report.html`` in a sweep's folder; written anew each time that the sweep goes on.

    Args:
        result: How the sweep ended.
        runs: A row for each job, in their order: ``run``, ``status``, ``run_dir``, what was chosen, its metrics.

    Returns:
        The page.
    """
    return page.write_page(result.info.folder, page.report_page(sweep_report(result, runs)))


def sweep_report(result: SweepResult, runs: pd.DataFrame) -> Report:
    """What a sweep's page shows; see :func:`write_sweep_card`."""
    info, objectives = result.info, result.info.objectives
    runs = _told_apart(runs, result.jobs)
    by, ranked = objectives[0].metric, runs
    if len(runs) and by in runs and runs[by].notna().any():
        ranked = rank_jobs(runs, objectives[0])
    else:
        by = ""
    keys = [key for key in info.space if key in ranked]
    places = [name for name in PLACES if name in ranked]
    finished = ranked[ranked["status"] == "finished"] if len(ranked) else ranked
    board = Board(finished.reset_index(drop=True), keys, objectives, result.importances)
    board = board if result.importances else _with_importances(board)
    histories = _histories(ranked)
    learning, curves = learning_charts(histories, by, list(ranked["run"]) if len(ranked) else [])
    charts = [history(runs, result.jobs, objectives[0]), *board_charts(board), *_fronts(board, result), *learning]
    metrics = dict.fromkeys([*(item.metric for item in objectives), *SHOWN])
    metrics = dict.fromkeys([*metrics, *bounded(info)])
    shown = ["run", *keys, "status", *places, *(name for name in metrics if name in ranked)]
    shown = with_spread(shown, by, ranked)
    failed = pd.DataFrame(
        [{"job": job.number, "chosen": " ".join(job.overrides), "reason": job.reason or ""} for job in result.failed]
    )
    return Report(
        title=f"{info.name}: {info.kind} of {len(runs)} runs",
        runs=ranked,
        columns=tables.unrepeated(ranked, shown) if len(ranked) else [],
        by=by,
        sections=[Section("Failed", failed)] if result.failed else [],
        notes=_notes(result, board),
        opening=[page.facts(_facts(result)), *_best(result)],
        charts=[chart for chart in charts if chart],
        curves=curves,
        addresses=page.addresses(_places(ranked), info.folder),
    )


def rank_jobs(runs: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """The runs of a sweep, best first.

    After those that kept the sweep's constraints come those that broke them, and then those that were cut short, of
    which the last epoch is known and not what came of it.
    """
    order = {tables.INFEASIBLE: 1, PRUNED: 2, PAUSED: 2}
    placed = runs.assign(place=runs["status"].map(lambda status: order.get(status, 0)))
    ranked = tables.rank(placed, objective.metric, larger_is_better=objective.maximize)
    return ranked.sort_values("place", kind="stable", ignore_index=True).drop(columns="place")


def bounded(info: SweepInfo) -> list[str]:
    """The metrics that a sweep's constraints bound."""
    return list(dict.fromkeys(text.split(" ")[0] for text in info.constraints))


def with_spread(columns: Sequence[str], by: str, runs: pd.DataFrame) -> list[str]:
    """The columns of a table, with the spread over seeds beside the metric it is of, where there is one."""
    spread = [name for name in (DEVIATION, SEEDS) if name in runs]
    return [one for column in columns for one in (column, *(spread if column == by else ()))]


def _told_apart(runs: pd.DataFrame, jobs: Sequence[Job]) -> pd.DataFrame:
    """The runs, those that share a name named by their number too."""
    if runs.empty:
        return runs
    twice = runs["run"].duplicated(keep=False)
    names = [
        f"{name} #{job.number}" if again else name for name, again, job in zip(runs["run"], twice, jobs, strict=True)
    ]
    return runs.assign(run=names)


def _facts(result: SweepResult) -> dict[str, object]:
    info = result.info
    counts = {word: sum(job.status == word for job in result.jobs) for word in (PRUNED, FAILED, PAUSED)}
    ended = [f"{count} {word}" for word, count in counts.items() if count or word != PAUSED]
    of = "" if info.total is None else f" of {info.total}"
    return {
        "ended": result.status,
        "runs": f"{len(result.jobs) - counts[PAUSED]}{of} ended, {', '.join(ended)}",
        "looks for": ", ".join(f"{item.metric} ({item.direction})" for item in info.objectives),
        "over": ", ".join(f"{key}={text}" for key, text in info.space.items()),
        **({"bound by": ", ".join(info.constraints)} if info.constraints else {}),
        **({"each over": f"{info.seed_key}={','.join(map(str, info.seeds))}"} if info.seeds else {}),
        "for all": " ".join(info.overrides),
        "folder": str(info.folder),
    }


def _best(result: SweepResult) -> list[str]:
    best = result.best[0] if result.best else None
    if len(result.info.objectives) > 1 or best is None or not all(map(math.isfinite, best.values)):
        return []
    chosen = " ".join(_brief(best.overrides))
    value = best.values[0] if best.values else math.nan
    metric = result.info.objectives[0].metric
    items = [(f"best {metric}", svg.number(value), f"#{best.number}: {chosen}")]
    if (spread := deviation(best.runs, metric)) is not None:
        seeds = ", ".join(str(run.seed) for run in best.runs)
        items.append(("its standard deviation", svg.number(spread), f"over seeds {seeds}"))
    if _TESTED in best.metrics and result.info.objectives[0].metric != _TESTED:
        low, high = (best.metrics.get(f"{_TESTED}_{end}", math.nan) for end in ("low", "high"))
        said = f"interval {low:.3f} to {high:.3f}" if math.isfinite(low) and math.isfinite(high) else "no interval"
        items.append((f"its {tables.heading(_TESTED)} on test", f"{best.metrics[_TESTED]:.3f}", said))
    return [page.tiles(items)]


def _brief(overrides: Sequence[str]) -> list[str]:
    """Overrides with long numbers rounded as tables round them."""
    pairs = overrides_by_key(overrides)
    return [f"{key}={tables.cell(tables.typed_value(value))}" for key, value in pairs.items()]


def _notes(result: SweepResult, board: Board) -> list[str]:
    notes = []
    if result.info.constraints and any(job.feasible is False for job in result.jobs) and not result.best:
        notes.append(f"No run keeps {', '.join(result.info.constraints)}: there is no best one.")
    elif board.scored.empty:
        notes.append(f"No run has finished with {board.metric}: there is nothing to compare.")
    elif len(board.scored) == 1:
        notes.append("Only one run has finished: there is nothing to compare it with.")
    if result.status != "finished":
        notes.append(f"The sweep was {result.status}; the same command goes on with it, and writes this page anew.")
    return notes


def _places(runs: pd.DataFrame) -> dict[str, Path]:
    pairs = zip(runs["run"], runs["run_dir"], strict=True) if "run_dir" in runs else ()
    return {str(name): Path(place) for name, place in pairs if isinstance(place, str)}


def board_charts(board: Board) -> list[str]:
    """Intervals of the best runs, importance of keys and parallel coordinates, as far as there is something to show."""
    scored = board.scored
    if len(scored) < 2:
        return []
    return [_intervals(board), _importance(board), _coordinates(board)]


def history(runs: pd.DataFrame, jobs: Sequence[Job], objective: Objective) -> str:
    """The objective of each job in the order of their numbers, and the best so far."""
    metric = objective.metric
    if metric not in runs or runs[metric].isna().all():
        return ""
    numbers = [float(job.number) for job in jobs]
    values = runs[metric].to_numpy(np.float64)
    said = [
        f"{name}: {metric} {svg.number(value)} {' '.join(_brief(job.overrides))}" if math.isfinite(value) else ""
        for name, value, job in zip(runs["run"], values, jobs, strict=True)
    ]
    plot = svg.Plot(svg.axis_over("job", numbers, whole=True, room=0.03), svg.axis_over(metric, values))
    pick = max if objective.maximize else min
    best, at = math.nan, list[float]()
    so_far: list[float] = []
    for number, value, status in sorted(zip(numbers, values, runs["status"], strict=True)):
        if status == "finished" and math.isfinite(value):
            best = value if math.isnan(best) else pick(best, value)
        if math.isfinite(best):
            at += [number, number]
            so_far += [so_far[-1] if so_far else best, best]
    plot.line(at, so_far, 2, "best so far")
    styles: dict[str, int | str] = {"finished": 0, tables.INFEASIBLE: 3, "pruned": "open", "paused": 2, "failed": 1}
    for status, style in styles.items():
        chosen = np.flatnonzero((runs["status"] == status) & np.isfinite(values))
        plot.points([numbers[i] for i in chosen], values[chosen].tolist(), style, status, [said[i] for i in chosen])
    without = int((~np.isfinite(values)).sum())
    remark = f"{without} of {len(values)} jobs have no {metric}." if without else ""
    return page.figure("History", plot.svg(f"{metric} by job"), remark)


def _intervals(board: Board) -> str:
    metric = next((m for m in (board.metric, _TESTED) if {m, f"{m}_low", f"{m}_high"} <= set(board.runs.columns)), None)
    if metric is None:
        return ""
    columns = ["run", metric, f"{metric}_low", f"{metric}_high"]
    rows = [
        (str(name), float(value), float(low), float(high))
        for name, value, low, high in board.scored[columns].head(_INTERVALS).itertuples(index=False)
    ]
    if not any(math.isfinite(low) for _, _, low, _ in rows):
        return ""
    remark = f"The best {_INTERVALS} of {len(board.scored):,} runs." if len(board.scored) > _INTERVALS else ""
    name = tables.heading(metric)
    return page.figure(f"{name} with intervals", svg.whiskers(rows, name, f"{name} of the best runs"), remark)


def _importance(board: Board) -> str:
    if not board.importances:
        return page.absent("Importance of keys", "it cannot be told of so few runs, or of runs that came out alike")
    rows = list(board.importances.items())[:_INTERVALS]
    said = ", ".join(f"{key} {value:.2f}" for key, value in rows)
    return page.figure(f"Importance of keys to {tables.heading(board.metric)}", svg.bars(rows, said), "By fANOVA.")


def _with_importances(board: Board) -> Board:
    """A board with the importance of its keys, reckoned of its own rows."""
    keys, scored = _choices(board), board.scored
    if not keys or len(scored) < 4:
        return board
    from deepfake.sweeping.results import importances_of

    rows = [{str(key): value for key, value in row.items()} for row in scored.to_dict("records")]
    found = importances_of([_numbers(row, keys) for row in rows], keys, scored[board.metric].astype(float).tolist())
    return Board(board.runs, board.keys, board.objectives, found)


def new_board(runs: pd.DataFrame, keys: Sequence[str], metric: str, *, larger_is_better: bool) -> Board:
    """A board of any runs, best first, with the importance of its keys."""
    return _with_importances(Board(runs, keys, [Objective(metric, larger_is_better)], {}))


def _choices(board: Board) -> list[str]:
    """The keys that were chosen among few values or in a range; one with a name for each run is none."""
    found = []
    for key in board.keys:
        values = [_number(value) for value in board.scored[key].tolist()]
        texts = {value for value in values if isinstance(value, str)}
        if len({str(value) for value in values}) > 1 and len(texts) <= _NAMED:
            found.append(key)
    return found


def _coordinates(board: Board) -> str:
    order = list(board.importances)
    keys = sorted(_choices(board), key=lambda key: order.index(key) if key in order else len(order))[:_KEYS]
    if not keys:
        return ""
    best, maximize = board.scored.head(_LINES)[[*keys, board.metric]], board.objectives[0].maximize
    rows = [_numbers({str(key): value for key, value in row.items()}, keys) for row in best.to_dict("records")]
    said = "what was chosen for each run, and what came of it"
    drawing = svg.parallel(rows, keys, board.metric, said, maximize=maximize)
    remark = "Stronger lines are better runs; the thick one is the best."
    if len(board.scored) > _LINES:
        remark += f" The best {_LINES} of {len(board.scored):,}."
    return page.figure("Parallel coordinates", drawing, remark)


def _numbers(row: Mapping[str, object], keys: Sequence[str]) -> dict[str, object]:
    """A row whose typed numbers are numbers."""
    return {**row, **{key: _number(row.get(key)) for key in keys}}


def _number(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == tables.ABSENT:
        return None
    try:
        return float(str(value))
    except ValueError:
        return str(value)


def _fronts(board: Board, result: SweepResult) -> list[str]:
    """The Pareto front in each pair of objectives, as far as there are several."""
    done = [job for job in result.jobs if len(job.values) == len(board.objectives)]
    if len(board.objectives) < 2 or not done:
        return []
    front = {job.number for job in result.best}
    charts = []
    for one, two in list(combinations(range(len(board.objectives)), 2))[:_PAIRS]:
        first, second = board.objectives[one], board.objectives[two]
        points = [(job.values[one], job.values[two]) for job in done]
        plot = svg.Plot(
            svg.axis_over(f"{first.metric} ({first.direction})", [x for x, _ in points]),
            svg.axis_over(f"{second.metric} ({second.direction})", [y for _, y in points]),
        )
        for members, style, label in ((False, "open", "dominated"), (True, 1, "Pareto front")):
            chosen = [(job, point) for job, point in zip(done, points, strict=True) if (job.number in front) == members]
            names = [f"{job.name or job.number}: {' '.join(_brief(job.overrides))}" for job, _ in chosen]
            plot.points([x for _, (x, _) in chosen], [y for _, (_, y) in chosen], style, label, names)
        charts.append(page.figure("Pareto front", plot.svg(f"{first.metric} against {second.metric}")))
    return charts


def _histories(runs: pd.DataFrame) -> dict[str, list[dict[str, float]]]:
    """Each run's epochs, where its folder is still there."""
    found: dict[str, list[dict[str, float]]] = {}
    for name, place in _places(runs).items():
        try:
            rows = json.loads((place / HISTORY).read_text(encoding="utf-8"))
            found[name] = [{k: v for k, v in row.items() if isinstance(v, float)} for row in rows]
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    return found


def learning_charts(histories: Curves, metric: str, names: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Training loss and a validation metric over epochs, of the first runs; the curves of all to exchange them for.

    Args:
        histories: Each run's epochs by its name.
        metric: Of validation; nothing else has a curve.
        names: Of all runs, in the order of the table.
    """
    charts, kept = [], {}
    for name, key, caption in (("loss", "train/loss", "Training loss"), ("metric", metric, metric)):
        whole = {run: series(history, key) for run, history in histories.items()}
        drawn = {run: _thinned(points) for run, points in whole.items() if len(points[0])}
        if not drawn:
            continue
        epochs = [x for across, _ in drawn.values() for x in (across[0], across[-1])]
        values = [y for _, up in drawn.values() for y in up]
        plot = svg.Plot(svg.axis_over("epoch", epochs, whole=True, room=0.02), svg.axis_over("", values))
        kept[name] = [plot.path(*drawn[run]) if run in drawn else "" for run in names]
        charts.append(_exchanged(name, caption, plot, kept[name], names))
    return charts, kept


def roc_chart(scores: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> tuple[str, list[str]]:
    """The ROC curves of the first runs, and those of all to exchange them for.

    Args:
        scores: Probabilities [n] by run.
        labels: 0 or 1 [n], both there.
        names: Of all runs, in the order of the table.
    """
    from deepfake.runs.card import roc_points

    plot = svg.Plot(svg.Axis("false positive rate", 0, 1), svg.Axis("true positive rate", 0, 1), 400, 380)
    plot.line([0, 1], [0, 1], "guide")
    paths = [plot.path(*roc_points(labels, scores[name]), apart=_APART) for name in names]
    return _exchanged("roc", "ROC", plot, paths, names), paths


def _exchanged(name: str, caption: str, plot: svg.Plot, paths: Sequence[str], names: Sequence[str]) -> str:
    drawing = plot.slots(paths).svg(f"{caption} of the runs that are checked")
    return page.slots(name, caption, drawing, names[: svg.MOST])


def _thinned(points: tuple[np.ndarray, np.ndarray]) -> tuple[list[float], list[float]]:
    across, up = points
    every = max(1, math.ceil(len(across) / _POINTS))
    chosen = sorted({*range(0, len(across), every), len(across) - 1})
    return across[chosen].tolist(), up[chosen].tolist()
