"""From Python what the commands do: ``deepfake.train``, ``sweep``, ``load`` and ``runs``, with results to go on with.

Calls what the commands call and computes nothing of its own. Whatever happens, the process is afterwards as it was
(:mod:`deepfake.isolation`); calls from several threads wait for each other.
"""

from __future__ import annotations

import html
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepfake.config import is_environment_key
from deepfake.errors import UserError
from deepfake.hydra_app import call_app, called_from_python, mistakes_raised
from deepfake.metrics import metric_names
from deepfake.options import override_value, split_override
from deepfake.runs.console import Console
from deepfake.tracking import tables
from deepfake.tracking.run_folder import pictures
from deepfake.tracking.run_record import RunRecord, from_folder

if TYPE_CHECKING:
    from torch import nn

    from deepfake.runs.load import Ensemble, Trained
    from deepfake.sweeping.callbacks import SweepResult

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Run:
    """A run that has ended, and what can be done with it.

    Attributes:
        name: Its name.
        folder: Its folder: config, weights, predictions, figures.
        run_id: Its MLflow id; None where no store knows it.
        metrics: Every metric by its name, such as ``test/roc_auc``.
        places: What was said of where outputs and tracking lie, which later calls need too.
    """

    name: str
    folder: Path
    run_id: str | None
    metrics: dict[str, float] = field(repr=False)
    places: tuple[str, ...] = field(default=(), repr=False)

    @property
    def predictions(self) -> pd.DataFrame:
        """One row per sample of the scored splits: ``sample_id``, ``split``, ``label``, ``score``, ``status``…"""
        return self._record.predictions()

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch, counted from 1."""
        rows = pd.DataFrame(self._record.history())
        return rows.assign(epoch=range(1, len(rows) + 1)).set_index("epoch")

    @property
    def config(self) -> dict[str, Any]:
        """Its config, as plain values."""
        return self._record.config()

    @property
    def figures(self) -> dict[str, Path]:
        """The pictures in its folder, by name."""
        return {path.stem: path for path in pictures(self.folder)}

    @property
    def report(self) -> Path | None:
        """Its page to show, where it has one."""
        page = self.folder / "report.html"
        return page if page.is_file() else None

    def load(self, *overrides: str, **values: object) -> Predictor:
        """Its detector, ready to predict; see :func:`load`."""
        return load(self, *overrides, **values)

    def evaluate(
        self, *overrides: str, by: Sequence[str] = (), robustness: bool = False, **values: object
    ) -> Evaluation:
        """What ``deepfake evaluate`` says of it, kept where the command keeps it.

        Args:
            overrides: ``dataset=…``, ``dataset.root=…``, ``split=test``, ``evaluation.*``; its own test split without.
            by: Further columns to break the numbers down by.
            robustness: Whether damaged copies are scored too.
            values: Overrides as keywords; see :func:`train`.

        Raises:
            UserError: As :func:`load`, or the data cannot be used.
        """
        from deepfake.commands import evaluate

        with called_from_python():
            request = evaluate.read_request([*self.places, *_words(overrides, values)])
            if request.suite is not None:
                raise UserError("suite= is read by the command only", "evaluate on one data set after the other")
            request = replace(request, by=list(by), robustness=robustness)
            found = evaluate.evaluate(str(self.folder), request, Console())
        return Evaluation(
            found.name, found.found.values, found.predictions, found.breakdown, found.curves, found.warnings
        )

    def reproduce(self, *overrides: str, tolerance: float = 1e-3, **values: object) -> Reproduction:
        """Run it again, as ``deepfake reproduce`` does.

        Args:
            overrides: Where things lie or how the machine is used now; any other is a change, as ``--set`` makes it.
            tolerance: How far a score may be off, or a metric as a share of its size where that is above 1.
            values: Overrides as keywords; see :func:`train`.

        Raises:
            UserError: It cannot be run again here.
        """
        from deepfake.commands import reproduce

        with called_from_python():
            words, console = [*self.places, *_words(overrides, values)], Console()
            places = [word for word in words if is_environment_key(word)]
            sets = [word for word in words if word not in places]
            asked = reproduce.find_asked(str(self.folder), places, sets)
            surroundings = reproduce.survey(asked, console)
            verdict, again = reproduce.run_again(asked, surroundings, tolerance, console)
        return Reproduction(verdict.word, verdict.metrics, verdict.notes, _run_of(again, _places(words)))

    def capsule(
        self, file: str | os.PathLike[str], *, weights: bool = True, data: bool = False, replace: bool = False
    ) -> Path:
        """One file with all it takes to run it again on another machine, as ``deepfake capsule`` makes it.

        Args:
            file: Where to, such as ``best.capsule.zip``.
            weights: Whether the best epoch's weights come along.
            data: Whether the crops that it read do.
            replace: Whether a file that is there may be replaced.

        Raises:
            UserError: It cannot be written there, or the run's files are gone.
        """
        from deepfake.commands import capsule

        target = Path(file).expanduser().absolute()
        with called_from_python(computes=False):
            capsule.main(
                Namespace(
                    run=str(self.folder),
                    places=list(self.places),
                    output=target,
                    weights=weights,
                    data=data,
                    force=replace,
                )
            )
        return target

    @property
    def _record(self) -> RunRecord:
        return from_folder(self.folder)

    def _repr_html_(self) -> str:
        shown = {f"test/{name}": self.metrics.get(f"test/{name}") for name in metric_names(headline=True)}
        table = pd.Series(shown, dtype=float).dropna().to_frame(self.name)
        return f"{table.to_html(float_format='{:.4f}'.format)}<code>{html.escape(str(self.folder))}</code>"


@dataclass(frozen=True)
class Sweep:
    """A sweep that has ended.

    Attributes:
        name: Its name; ``best:NAME`` and ``NAME:3`` name its runs to the commands.
        folder: Its folder.
        status: ``finished``, ``stopped`` (its time or too many failures) or ``interrupted``.
        objective: The metric that ``table`` is sorted by.
        table: One row per job, best first: ``run``, ``status``, ``run_id``, ``run_dir``, what was chosen, all metrics.
        best: The best run; with several objectives the first of those that no other beats. None where none finished.
        failed: One row per job that failed: ``job``, ``overrides``, ``reason``, ``traceback`` (a file).
        figures: The pictures it drew, by name.
    """

    name: str
    folder: Path
    status: str
    objective: str
    table: pd.DataFrame = field(repr=False)
    best: Run | None
    failed: pd.DataFrame = field(repr=False)
    figures: dict[str, Path] = field(default_factory=dict, repr=False)

    def _repr_html_(self) -> str:
        table: str = self.table.drop(columns=["run_id", "run_dir", "overrides"]).to_html(index=False)
        return table


class SweepError(UserError):
    """No run of a sweep came to its end.

    Attributes:
        sweep: What there is; ``sweep.failed`` says why.
    """

    def __init__(self, sweep: Sweep) -> None:
        reason = f", the first one: {sweep.failed['reason'].iloc[0]}" if len(sweep.failed) else ""
        super().__init__(f"none of {len(sweep.table)} runs finished{reason}", "see .sweep.failed of this error")
        self.sweep = sweep


@dataclass(frozen=True)
class Evaluation:
    """A run's numbers on one data set.

    Attributes:
        name: What it is kept as: the data set, and the split where that is not test.
        metrics: By name, without a split before it: ``roc_auc``, ``roc_auc_low``…
        predictions: One row per sample.
        breakdown: The metrics by method and by other columns.
        curves: Of robustness, by the kind of corruption, where it was asked for.
        warnings: Why the numbers may mean less than they look.
    """

    name: str
    metrics: dict[str, float]
    predictions: pd.DataFrame = field(repr=False)
    breakdown: pd.DataFrame = field(repr=False)
    curves: dict[str, pd.DataFrame] = field(repr=False)
    warnings: list[str] = field(repr=False)


@dataclass(frozen=True)
class Reproduction:
    """What came of running a run again.

    Attributes:
        verdict: ``identical``, ``within tolerance`` or ``different``.
        metrics: One row per metric: then, now and the difference.
        notes: What else was compared.
        run: The new run.
    """

    verdict: str
    metrics: pd.DataFrame = field(repr=False)
    notes: list[str] = field(repr=False)
    run: Run


class Predictor:
    """A trained detector that answers for files.

    Attributes:
        run: The run it comes from.
        models: The detectors whose scores are averaged: one, but of an ensemble.
        config: The run's config with what was typed laid over it, as plain values.
        threshold: The score from which a file is called FAKE.
    """

    def __init__(self, trained: Trained | Ensemble, run: Run) -> None:
        self.run = run
        self.models: list[nn.Module] = [member.detector for member in trained.members]
        self.config: dict[str, Any] = asdict(trained.config)
        self.threshold: float = trained.decision.applied_threshold
        self._trained = trained

    @property
    def model(self) -> nn.Module:
        """The detector as a ``torch.nn.Module`` with the best epoch's weights, in evaluation mode, on ``model``'s
        device: clips as uint8 ``[B, T, C, H, W]`` and a mask ``[B, T]`` to logits ``[B]``.

        Raises:
            UserError: The run is an ensemble, whose detectors read crops of their own.
        """
        if len(self.models) > 1:
            raise UserError(f"{self.run.name!r} is an ensemble of {len(self.models)} models", "see .models")
        return self.models[0]

    def predict(self, paths: Paths) -> pd.DataFrame:
        """REAL or FAKE for each file, as ``deepfake predict`` says it.

        Args:
            paths: Videos, images, folders and globs, or one of them.

        Returns:
            One row per file, in the order named: ``path``, ``class``, ``probability`` (that it is fake, calibrated),
            ``confidence``, ``score`` and more. Where there is no answer, ``class`` is None and ``reason_code`` says
            why.

        Raises:
            UserError: No file is named.
        """
        from deepfake.commands import predict
        from deepfake.runs.inputs import named_inputs
        from deepfake.training.runtime import create_fabric, seed_everything

        named = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        with called_from_python():
            # What loading had set for the process was taken back at its end.
            config = self._trained.config
            create_fabric(config.trainer)
            seed_everything(config.seed, config.trainer.deterministic)
            inputs = named_inputs([os.fspath(path) for path in named])
            return predict.as_table(predict.answer_all(self._trained, inputs, Console()))

    def __repr__(self) -> str:
        return f"Predictor({self.run.name!r}, threshold={self.threshold:.4f})"


def train(*overrides: str, **values: object) -> Run:
    """Train one detector: what ``python train.py OVERRIDES`` does, to the last digit.

    Args:
        overrides: As they are typed on the command line: ``"model=cnn_lstm"``, ``"trainer.epochs=2"``.
        values: The same as keywords: ``model="cnn_lstm", **{"trainer.epochs": 2}``. A value is that very value,
            whatever it holds; nothing is quoted by hand.

    Raises:
        UserError: A mistake in the config, the data or the model; nothing was kept.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the run can be gone on with by ``resume=FOLDER``.
    """
    from deepfake.commands import train as command

    words = _words(overrides, values)
    with called_from_python():
        made = call_app(command.train, words)
    return Run(made["name"], Path(made["run_dir"]), made["run_id"], made["metrics"], _places(words))


def sweep(*overrides: str, **values: object) -> Sweep:
    """Train many: what ``python train.py -m OVERRIDES`` does.

    Args:
        overrides: As typed: ``"model=cnn_lstm,cnn_gru"``, ``"search=lr_batch"``, ``"sweep.n_trials=4"``.
        values: As keywords; the values of a tuple are swept over: ``model=("cnn_lstm", "cnn_gru")``.

    Raises:
        UserError: Nothing could be started.
        SweepError: No run finished; a sweep of which some did is returned.
        KeyboardInterrupt: The same call goes on with a study.
    """
    from deepfake.commands import train as command
    from deepfake.runs.build import process_cache
    from deepfake.sweeping.sweeper import Batches, SweepFailed

    words = _words(overrides, values, swept=True)
    with called_from_python():
        try:
            returned = call_app(command.train, words, sweep=True)
            result = returned.result if isinstance(returned, Batches) else returned
        except SweepFailed as failure:
            result = failure.result
        finally:
            # What the runs shared would stay in memory as long as this process.
            process_cache.cache_clear()
    found = _sweep_of(result, _places(words))
    if found.best is None:
        raise SweepError(found)
    return found


def load(run: str | os.PathLike[str] | Run, *overrides: str, **values: object) -> Predictor:
    """A trained run, ready to predict.

    Args:
        run: What :func:`train` returned, or a run's name, folder or id, ``best:STUDY`` or ``STUDY:NUMBER``.
        overrides: Of data, scoring and the machine, such as ``trainer.accelerator=cpu``.
        values: The same as keywords; see :func:`train`.

    Raises:
        UserError: No such run, an unfinished one, or an override that would change the model.
    """
    from deepfake.runs.load import open_run

    words = _words(overrides, values)
    with called_from_python():
        if isinstance(run, Run):
            words = [*run.places, *words]
            reference = str(run.folder)
        else:
            reference = os.fspath(run)
        trained = open_run(reference, words, Console())
        return Predictor(trained, _run_of(trained.record, _places(words)))


def ensemble(members: Sequence[str | os.PathLike[str] | Run], *overrides: str, **values: object) -> Run:
    """Several runs as one whose score is their average, as ``deepfake ensemble`` makes it.

    Args:
        members: What :func:`train` returned, or names, folders and ids, at least two.
        overrides: ``name=…``, ``evaluation.*``, and where outputs and tracking lie.
        values: The same as keywords; see :func:`train`.

    Raises:
        UserError: They cannot be averaged: too few, the same one twice, no sample that all were tested on, or one was
            trained on what another is tested on.
    """
    from deepfake.commands import ensemble as command

    words = _words(overrides, values)
    with called_from_python():
        places = [place for run in members if isinstance(run, Run) for place in run.places]
        named = [str(run.folder) if isinstance(run, Run) else os.fspath(run) for run in members]
        record = command.join(named, [*dict.fromkeys(places), *words], Console())
    return _run_of(record, _places([*places, *words]))


def datasets(root: str | os.PathLike[str]) -> pd.DataFrame:
    """Every known data set at or below a folder, as ``deepfake datasets ROOT`` finds them.

    Args:
        root: Where to look.

    Returns:
        One row per data set: ``dataset`` and ``root``, as ``train`` takes them, and
        ``found``, what told it; empty where there is none, or no such folder.
    """
    from deepfake.commands.datasets import found_below

    place = Path(root).expanduser()
    with mistakes_raised():
        found = [(name, str(folder), what) for folder, name, what in found_below(place)] if place.is_dir() else []
    return pd.DataFrame(found, columns=["dataset", "root", "found"])


def _words(overrides: Sequence[str], values: Mapping[str, object], *, swept: bool = False) -> list[str]:
    """Overrides in Hydra's grammar, the keywords behind the others."""
    for text in overrides:
        if not isinstance(text, str):
            raise UserError(f"{text!r} is no override", "write 'key=value', or key=value as a keyword")
    words = list(overrides)
    for key, value in values.items():
        if swept and isinstance(value, tuple):
            words.append(f"{key}={','.join(map(override_value, value))}")
        else:
            words.append(f"{key}={override_value(value)}")
    return words


def _places(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if split_override(word)[0] in ("paths.outputs", "tracking.uri"))


def _run_of(record: RunRecord, places: tuple[str, ...]) -> Run:
    return Run(record.name, record.places[0], record.run_id, record.metrics(), places)


def _sweep_of(result: SweepResult, places: tuple[str, ...]) -> Sweep:
    from deepfake.runs.observer import job_table

    info, table = result.info, job_table(result)
    objective = info.objectives[0]
    if objective.metric in table:
        table = tables.rank(table, objective.metric, larger_is_better=objective.maximize)
    failed = [
        {"job": job.number, "overrides": " ".join(job.overrides), "reason": job.reason, "traceback": job.traceback}
        for job in result.failed
    ]
    best = next((job for job in result.best if job.run_dir), None)
    return Sweep(
        info.name,
        info.folder,
        result.status,
        objective.metric,
        table,
        None if best is None else Run(str(best.name), Path(str(best.run_dir)), best.run_id, best.metrics, places),
        pd.DataFrame(failed, columns=["job", "overrides", "reason", "traceback"]),
        {path.stem: path for path in result.files if path.suffix == ".png"},
    )
