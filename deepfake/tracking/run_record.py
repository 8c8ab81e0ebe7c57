"""A run of the past, read from its files, wherever these still are: anybody may have written them. Knows no MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import yaml
from packaging.version import InvalidVersion, Version

from deepfake import __version__
from deepfake.errors import UserError
from deepfake.installation import TRAIN, typed_command
from deepfake.tracking.provenance import FORMAT
from deepfake.tracking.run_folder import (
    AUDIT,
    CALIBRATION,
    CLIPS,
    CONFIG,
    DOMAIN,
    ENSEMBLE,
    FEATURES,
    HISTORY,
    LET_GO,
    LET_GO_TAG,
    MANIFEST,
    METRICS,
    OVERRIDES,
    PREDICTIONS,
    PROVENANCE,
    RESOLVED,
    WEIGHTS,
)
from deepfake.tracking.runs import PAUSED, STATE

#: The tag of an ensemble: the runs that it is made of.
ENSEMBLE_TAG = "ensemble"
#: Beyond these nobody's config goes, and reading one would only take memory and time.
_MOST_BYTES, _DEEPEST = 1 << 20, 50

T = TypeVar("T")

_PACKAGE = "deepfake-sweeps"
_SHOWN = 60
#: More than any machine's processors: to ask for as many would end the process.
_MOST_THREADS = 4096
_NONE = type(None)
#: What a provenance holds where anything reads it; see :func:`misfit`.
_PROVENANCE = {
    "format": int,
    "version": (str, _NONE),
    "git": (
        {"commit": (str, _NONE), "diff": (str, _NONE), "diff_sha256": (str, _NONE), "untracked": ([str], _NONE)},
        _NONE,
    ),
    "code": {"*": str},
    "packages": {"*": (str, _NONE)},
    "installed": {"*": (str, _NONE)},
    "python": (str, _NONE),
    "platform": (str, _NONE),
    "machine": {"threads": (int, _NONE), "processes": int, "gpus": ([str], _NONE)},
    "seeds": {"*": int},
    "data": {"choices": {"*": (str, _NONE)}, "roots": {"*": str}, "crops": (str, _NONE)},
    "environment": {"*": (str, _NONE)},
    "weights": {"*": (str, _NONE)},
}
#: And what an evaluation holds beside its metrics.
_EVALUATION = {
    "unavailable": {"*": str},
    "intervals": {"*": (str, float)},
    "confusion": {"*": {"*": float}},
    "notes": [str],
}
#: And what an ensemble says of the runs that it is made of.
_ENSEMBLE: Any = {
    "format": int,
    "members": [{"name": str, "run_id": (str, _NONE), "folder": str, "weights": str, "metrics": {"*": float}}],
}
_KINDS = {str: "text", int: "a whole number", float: "a number", _NONE: "nothing"}


def _texts(column: pd.Series) -> bool:
    return bool(column.map(lambda value: isinstance(value, str)).all())


def _texts_or_nothing(column: pd.Series) -> bool:
    return _texts(column.dropna())


def _whole(column: pd.Series) -> bool:
    return pd.api.types.is_integer_dtype(column)


def _classes(column: pd.Series) -> bool:
    return _whole(column) and bool(column.isin((0, 1)).all())


def _numbers_or_nan(column: pd.Series) -> bool:
    return pd.api.types.is_float_dtype(column)


def _probabilities_or_nan(column: pd.Series) -> bool:
    return _numbers_or_nan(column) and bool(column.dropna().between(0, 1).all())


#: What the columns of a run's tables hold, in whichever of them they are.
_COLUMNS: dict[str, tuple[Callable[[pd.Series], bool], str]] = {
    "sample_id": (_texts, "names"),
    "path": (_texts, "names"),
    "dataset": (_texts, "names"),
    "split": (_texts, "names"),
    "status": (_texts, "names"),
    "kind": (_texts_or_nothing, "names"),
    "method": (_texts_or_nothing, "names"),
    "original": (_texts_or_nothing, "names"),
    "sha256": (_texts_or_nothing, "digests"),
    "label": (_classes, "0 and 1"),
    "bytes": (_whole, "whole numbers"),
    "face": (_whole, "whole numbers"),
    "score": (_probabilities_or_nan, "numbers from 0 to 1"),
    "logit": (_numbers_or_nan, "numbers"),
}
_ONE_ROW_EACH = (MANIFEST, PREDICTIONS)


@dataclass(frozen=True)
class Member:
    """One of the runs that an ensemble is made of.

    Attributes:
        name: Its name.
        run_id: Its MLflow id, None where no store knew it.
        folder: Where its folder lay.
        weights: SHA-256 of its weights' file.
        metrics: Its own numbers on the samples that the ensemble is tested on.
    """

    name: str
    run_id: str | None
    folder: str
    weights: str
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """One run of the past. Its files are looked up when asked for, wherever they still are.

    Attributes:
        name: Its name.
        run_id: Its MLflow id, None where no store knows it.
        status: MLflow's word (FINISHED, FAILED, KILLED, RUNNING), or for a folder alone what its files tell.
        failure: Why it failed, where it said so.
        places: Folders that may hold its files, the run folder first.
        fetch: Downloads one file from a server's artifacts; None where there is none to ask.
        tags: MLflow's tags.
        params: MLflow's parameters.
        logged: MLflow's metrics, last values.
    """

    name: str
    run_id: str | None
    status: str
    failure: str | None
    places: tuple[Path, ...]
    fetch: Callable[[str], Path | None] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    logged: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name!r} ({self.reference})"

    @property
    def reference(self) -> str:
        """What finds it again: its id, or the folder of one that no store knows."""
        return self.run_id or str(self.places[0])

    def has(self, name: str) -> bool:
        """Whether a file of the run is still there."""
        return self._look(name) is not None

    def file(self, name: str) -> Path:
        """A file of the run, such as ``figures/roc.png``.

        Raises:
            UserError: It was never written, or was deleted.
        """
        found = self._look(name)
        if found is not None:
            return found
        if self.status != "FINISHED":
            raise self._unfinished(f"has no {name}")
        looked = ", ".join(str(place) for place in self.places) or "its artifacts"
        raise UserError(
            f"{name} of run {self} was deleted; looked in {looked}",
            "restore the run's folder or artifacts, or name another run",
        )

    def require_finished(self) -> RunRecord:
        """The record itself.

        Raises:
            UserError: The run is still going on, was stopped or failed; says which and why.
        """
        if self.status == "FINISHED":
            return self
        raise self._unfinished("never finished")

    def config(self) -> dict[str, Any]:
        """The resolved configuration, as plain values: a ``${...}`` in it is text."""
        return _mapping(self.file(RESOLVED))

    def composed(self) -> dict[str, Any]:
        """The configuration as it was composed: a ``${...}`` in it stands for something, but may come from anybody."""
        return _mapping(self.file(CONFIG))

    def overrides(self) -> list[str]:
        """What was typed."""
        path = self.file(OVERRIDES)
        found = _read(path, read_yaml) or []
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise _damaged(path, "it is no list of overrides")
        return found

    def provenance(self) -> dict[str, Any]:
        """Code, packages, machine, data and seeds; see :func:`deepfake.tracking.provenance.collect`.

        Raises:
            UserError: It is damaged, or a newer version wrote it in a way this one cannot read.
        """
        found = self._json_object(PROVENANCE)
        if isinstance(found.get("format"), int) and found["format"] > FORMAT:
            raise UserError(
                f"run {self} was written by a newer version (format {found['format']}, this one reads {FORMAT})",
                _newer(found, found.get("version")),
            )
        if why := misfit(found, _PROVENANCE):
            raise _damaged(self.file(PROVENANCE), why)
        threads = found.get("machine", {}).get("threads")
        if threads is not None and not 0 <= threads <= _MOST_THREADS:
            raise _damaged(self.file(PROVENANCE), f"it ran on {threads} threads")
        made = found.get("packages", {}).get(_PACKAGE, __version__)
        try:
            newer = Version(str(made)) > Version(__version__)
        except InvalidVersion as error:
            raise _damaged(self.file(PROVENANCE), str(error)) from error
        if newer:
            raise UserError(
                f"run {self} was made by version {made}, which is newer than this one, {__version__}",
                _newer(found, made),
            )
        return found

    def manifest(self, *columns: str) -> pd.DataFrame:
        """Every sample that was selected; ``groups`` are tuples again.

        Args:
            columns: Those that the caller reads, beside ``sample_id`` and ``groups``.

        Raises:
            UserError: It is damaged, or one of them is not there.
        """
        table = self._table(MANIFEST, "sample_id", "groups", *columns)
        try:
            groups = table["groups"].map(lambda names: tuple(map(str, names)))
        except TypeError as error:
            raise _damaged(self.file(MANIFEST), "its groups are no lists") from error
        return table.assign(groups=groups)

    def predictions(self, *columns: str) -> pd.DataFrame:
        """The scores of every sample.

        Args:
            columns: Those that the caller reads, beside ``sample_id`` and ``score``.

        Raises:
            UserError: It is damaged, or one of them is not there.
        """
        return self._table(PREDICTIONS, "sample_id", "score", *columns)

    def clips(self) -> pd.DataFrame:
        """The logit of every clip that was scored."""
        return self._table(CLIPS, "sample_id", "split", "logit")

    def calibration(self) -> dict[str, Any]:
        """What was fitted on validation, as it was written."""
        return self._json_object(CALIBRATION)

    def domain(self) -> dict[str, Any]:
        """What it was trained on, as it was written."""
        return self._json_object(DOMAIN)

    def features(self) -> list[str]:
        """The keys of the stored features that it read; none where it read clips."""
        if not self.has(FEATURES):
            return []
        found = self._json_object(FEATURES)
        if why := misfit(found, {"keys": [str]}):
            raise _damaged(self.file(FEATURES), why)
        return list(found.get("keys", []))

    def metrics(self) -> dict[str, float]:
        """The run's metrics with every digit; those MLflow logged where the file is gone."""
        if self.has(METRICS):
            return self._numbers()
        if self.logged:
            return {name: value for name, value in self.logged.items() if not name.startswith("system/")}
        return self._numbers()

    def unavailable(self) -> dict[str, str]:
        """Why metrics that one might expect are missing."""
        found = self._json_object(METRICS).get("unavailable", {})
        if why := misfit(found, {"*": str}):
            raise _damaged(self.file(METRICS), f"unavailable: {why}")
        return dict(found)

    def evaluation(self) -> dict[str, Any]:
        """All that is kept beside the metrics: ``unavailable``, ``intervals``, ``confusion`` and ``notes``."""
        found = self._json_object(METRICS)
        if why := misfit(found, _EVALUATION):
            raise _damaged(self.file(METRICS), why)
        return found

    def audit(self) -> dict[str, Any]:
        """What the audit of its data set found; see :meth:`deepfake.data.audit.Audit.as_dict`."""
        found = self._json_object(AUDIT)
        if why := misfit(found, {"warnings": [str]}):
            raise _damaged(self.file(AUDIT), why)
        return found

    def history(self) -> list[dict[str, float]]:
        """The metrics of each epoch."""
        rows = _read(self.file(HISTORY), _load_json)
        if why := misfit(rows, [{"*": (float, type(None))}]):
            raise _damaged(self.file(HISTORY), f"it is no list of epochs: {why}")
        return [{key: value for key, value in row.items() if value is not None} for row in rows]

    def weights(self) -> Path:
        """The best epoch's weights.

        Raises:
            UserError: They are gone, with the reason where they were deleted, or the run is an ensemble, which has
                none of its own.
        """
        self.refuse_ensemble("has no weights of its own", "name one of these runs")
        found = self._look(WEIGHTS)
        if found is None:
            self.refuse_let_go()
        return self.file(WEIGHTS) if found is None else found

    def refuse_let_go(self) -> None:
        """Refuse a run whose weights were deleted once it had ended, where these are needed.

        Raises:
            UserError: They were; says why, and how to have them again.
        """
        why = None
        if self.has(LET_GO):
            found = self._json_object(LET_GO)
            if wrong := misfit(found, {"why": str}):
                raise _damaged(self.file(LET_GO), wrong)
            why = str(found.get("why", "they were deleted"))
        elif not any((place / RESOLVED).is_file() for place in self.places):
            # Nothing is left of it but what its store knows.
            why = self.tags.get(LET_GO_TAG)
        if why is not None:
            raise UserError(
                f"run {self} has no weights any more: {why}",
                f"train it again, its copy keeps them: {typed_command('reproduce', self.reference)}",
            )

    @property
    def is_ensemble(self) -> bool:
        """Whether it was made of other runs and not trained."""
        # Of a server it is not asked: to find that a file is not there takes as long as to get it.
        return ENSEMBLE_TAG in self.tags or any((place / ENSEMBLE).is_file() for place in self.places)

    def refuse_ensemble(self, what: str, hint: str) -> None:
        """Refuse an ensemble where a run is needed that was trained.

        Raises:
            UserError: It is one; names the runs that it is made of.
        """
        if self.is_ensemble:
            names = ", ".join(f"{one.name} ({one.run_id or one.folder})" for one in self.members())
            raise UserError(f"run {self} {what}: it is an ensemble of {names}", hint)

    def members(self) -> list[Member]:
        """The runs that an ensemble is made of.

        Raises:
            UserError: It is damaged, or is none.
        """
        found = self._json_object(ENSEMBLE)
        if why := misfit(found, _ENSEMBLE):
            raise _damaged(self.file(ENSEMBLE), why)
        try:
            return [Member(**one) for one in found["members"]]
        except (KeyError, TypeError) as error:
            raise _damaged(self.file(ENSEMBLE), str(error)) from error

    def _json_object(self, name: str) -> dict[str, Any]:
        path = self.file(name)
        found = _read(path, _load_json)
        if not isinstance(found, dict):
            raise _damaged(path, "it is no JSON object")
        return found

    def _numbers(self) -> dict[str, float]:
        found: Any = self._json_object(METRICS).get("metrics")
        if why := misfit(found, {"*": (float, type(None))}):
            raise _damaged(self.file(METRICS), f"its metrics are no numbers: {why}")
        return {name: float(value) for name, value in found.items() if value is not None}

    def _table(self, name: str, *columns: str) -> pd.DataFrame:
        path = self.file(name)
        table = _read(path, pd.read_parquet)
        if missing := [column for column in columns if column not in table]:
            raise _damaged(path, f"it has no column {', '.join(missing)}")
        for column, (holds, what) in _COLUMNS.items():
            if column in table and not holds(table[column]):
                raise _damaged(path, f"its column {column} holds other things than {what}")
        if name in _ONE_ROW_EACH and table["sample_id"].duplicated().any():
            raise _damaged(path, "a sample has several rows")
        return table

    def _look(self, name: str) -> Path | None:
        for place in self.places:
            if (place / name).is_file():
                return place / name
        return self.fetch(name) if self.fetch is not None else None

    def _unfinished(self, what: str) -> UserError:
        reason = f": {self.failure}" if self.failure else ""
        hint = f"name a run that finished, or go on with this one: {TRAIN} resume=<its folder>"
        if self.status == "RUNNING":
            hint = f"wait until it ends; if its process is gone, go on with it: {TRAIN} resume=<its folder>"
        elif self.tags.get(STATE) == PAUSED:
            hint = (
                "its sweep has paused it, and goes on with it once it is among the best of its rung: name another run"
            )
        return UserError(f"run {self} {what}; its status is {self.status}{reason}", hint)


def misfit(value: object, shape: Any) -> str:
    """Where a value read from a file is not of the shape that its readers count on; empty where it is.

    Args:
        value: As JSON or YAML gave it.
        shape: A type, a tuple of shapes of which one must fit, a list of the shape of every item, or a mapping of the
            shapes below the keys that are there; ``*`` stands for every other key. A ``float`` may be whole.
    """
    if isinstance(shape, tuple):
        found = [misfit(value, one) for one in shape]
        return "" if "" in found else found[0]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{_shown(value)} where a list belongs"
        return next(filter(None, (misfit(item, shape[0]) for item in value)), "")
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{_shown(value)} where a mapping belongs"
        for key, item in value.items():
            wanted = shape.get(key, shape.get("*"))
            if wanted is not None and (why := misfit(item, wanted)):
                return f"{key}: {why}"
        return ""
    fits = isinstance(value, (int, float) if shape is float else shape)
    # To Python, true is a number.
    return "" if fits and not isinstance(value, bool) else f"{_shown(value)} where {_KINDS[shape]} belongs"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _newer(provenance: Mapping[str, Any], version: str | None) -> str:
    """How to read what a newer version wrote; one that was installed as a package left no commit."""
    commit = (provenance.get("git") or {}).get("commit")
    named = f"its commit {commit}" if commit else f"version {version}" if version else "a newer version"
    return f"update this installation to {named}"


def _read(path: Path, read: Callable[[Path], T]) -> T:
    """What a file holds; one that cannot be read is named."""
    try:
        return read(path)
    # Arrow's errors are ValueErrors, OSErrors or KeyErrors; deep nesting ends in a RecursionError.
    except (ValueError, KeyError, OSError, RecursionError) as error:
        raise _damaged(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _mapping(path: Path) -> dict[str, Any]:
    found = _read(path, read_yaml)
    if not isinstance(found, dict):
        raise _damaged(path, "it is no mapping of keys")
    return {str(key): value for key, value in found.items()}


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged: {why}", "restore it, or name another run")


def from_folder(folder: Path) -> RunRecord:
    """The run whose files lie in a folder, without asking any store.

    Raises:
        UserError: The folder is none of a run.
    """
    if not (folder / RESOLVED).is_file():
        raise UserError(
            f"{folder} is not the folder of a run: it has no {RESOLVED}",
            "name the folder that holds resolved.yaml, such as one below outputs/runs",
        )
    config = _mapping(folder / RESOLVED)
    finished = (folder / METRICS).is_file()
    name = str(config.get("name", folder.name))
    return RunRecord(name, None, "FINISHED" if finished else "UNFINISHED", None, (folder.absolute(),))


class _DataLoader(yaml.SafeLoader):
    """Plain YAML without references: an alias may stand for so much that unfolding it never ends."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*name), which no run's config does")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {_DEEPEST} deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def read_yaml(path: Path) -> object:
    """The plain values in a YAML file of a run.

    Raises:
        ValueError: It is too large, holds aliases or tags that are no plain data, or is no YAML at all; says which.
        OSError: It cannot be read.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES:,} bytes")
    return parse_yaml(path.read_text(encoding="utf-8"))


def parse_yaml(text: str) -> object:
    """The plain values in a YAML text; see :func:`read_yaml`.

    Raises:
        ValueError: As :func:`read_yaml`.
    """
    try:
        # _DataLoader is a SafeLoader.
        return yaml.load(text, Loader=_DataLoader)  # noqa: S506
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
