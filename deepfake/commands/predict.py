"""``deepfake predict RUN PATH…``: REAL or FAKE for videos, images, folders and globs, by a trained run."""

from __future__ import annotations

import argparse
import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from deepfake.data.clips import ClipSet
from deepfake.data.crop_records import Record, read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import CutSettings
from deepfake.data.layouts.base import kind_of, list_files, walk_folders
from deepfake.data.manifest import IMAGE_SUFFIXES, VIDEO_SUFFIXES, plain_path
from deepfake.data.media import Deadline
from deepfake.data.prepare import cut_settings, prepare_jobs
from deepfake.data.prepare_worker import Job, stamp, time_limit
from deepfake.errors import UserError, harmless, printable
from deepfake.progress import Progress
from deepfake.runs.artifacts import scratch_folder
from deepfake.runs.console import Console
from deepfake.runs.load import Trained, open_run
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_record import RunRecord
from deepfake.training.calibration import sigmoid
from deepfake.training.decision import Decision

#: The exit status when some input has no answer.
UNANSWERED = 3
_DEPTH = 20  # folders below the one named
_KNOWN = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_FILES = 64  # whose crops lie on the disk at once
#: Seconds for one file, and one more for each megabyte, unless more were asked for: somebody waits for the answer.
_SECONDS = 25.0
_OVERRIDE = re.compile(r"(dataset|evaluation|trainer|tracking|paths)\.[\w.]+=")


@dataclass(frozen=True)
class Input:
    """One file to be looked at, or a name that leads to none.

    Attributes:
        path: Where it is said to lie.
        kind: ``video`` or ``image``; empty where it cannot be looked at.
        reason: Why it cannot, in a word: ``not_found``, ``nothing_inside``, ``unreadable`` or ``unsupported``; empty
            where it can.
        detail: The same for people.
    """

    path: Path
    kind: str = ""
    reason: str = ""
    detail: str = ""


def expand_inputs(named: Sequence[str]) -> list[Input]:
    """Every file that is meant, in the order named; a folder's and a glob's by name.

    Raises:
        UserError: A name is empty: to the file system that is the working directory, to a user an unset variable.
    """
    if "" in named:
        raise UserError(
            "one of the names is empty", "name videos, images, folders or globs; . is the working directory"
        )
    return [found for text in named for found in _expand(text)]


def named_inputs(named: Sequence[str]) -> list[Input]:
    """The same, of at least one name."""
    inputs = expand_inputs(named)
    if not inputs:
        raise UserError("nothing to look at was named", "name videos, images, folders or globs behind the run")
    return inputs


def _expand(text: str) -> Iterator[Input]:
    path = Path(text).expanduser()
    if path.is_dir():
        closed: list[Path] = []
        inside = list_files(path, "", _KNOWN, _DEPTH, closed.append)
        yield from (Input(one, reason="unreadable", detail="the folder may not be read") for one in sorted(closed))
        if not inside and not closed:
            yield Input(path, reason="nothing_inside", detail="the folder holds no video and no image")
        yield from (_file(path / file.path) for file in inside)
    elif os.path.lexists(path):
        yield _file(path)
    elif glob.has_magic(text):
        matches = sorted({Path(found) for found in _matches(str(path))})
        files = [found for found in matches if not found.is_dir()]
        if not files:
            yield Input(path, reason="not_found", detail="no file matches")
        yield from map(_file, files)
    else:
        yield Input(path, reason="not_found", detail="there is no such file or folder")


def _matches(pattern: str) -> Iterator[str]:
    """What a glob matches; ``**`` reads each folder once, where Python's own goes round in circles of links."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from glob.glob(pattern)
        return
    place = parts.index("**")
    below = parts[place + 1 :] or ("*",)
    for top in glob.glob(os.path.join(*parts[:place])) if place else [""]:
        for folder in walk_folders(Path(top), "", _DEPTH):
            yield from _matches(os.path.join(glob.escape(os.path.join(top, folder)), *below))


def _file(path: Path) -> Input:
    kind = kind_of(path.name)
    if not kind:
        return Input(path, reason="unsupported", detail="neither a video nor an image, by its name")
    return Input(path, kind)


@dataclass(frozen=True)
class Answer:
    """What is said of one file.

    Attributes:
        input: The file.
        predicted: ``REAL`` or ``FAKE``; None where there is no answer.
        probability: That it is fake, calibrated; None without an answer or a calibrator.
        confidence: The probability of the class that is named; below a half where the threshold is not a half.
        tied: It is exactly as probable as the threshold, for the calibrator is level there: its score decided.
        score: The detector's own, as in a run's predictions.
        clips: The probability of each clip, raw.
        faces: Frames in which the face was found; None where none is looked for.
        frames: Frames looked at.
        reason: Why there is no answer, in a word; empty where there is one.
        detail: The same for people.
    """

    input: Input
    predicted: str | None = None
    probability: float | None = None
    confidence: float | None = None
    tied: bool = False
    score: float | None = None
    clips: tuple[float, ...] = ()
    faces: int | None = None
    frames: int = 0
    reason: str = ""
    detail: str = ""


def predict_inputs(trained: Trained, inputs: Sequence[Input], progress: Progress | None = None) -> Iterator[Answer]:
    """An answer for each input, in their order; one that cannot be read does not stop the others."""
    config = trained.config
    settings = cut_settings(config.dataset, config.head.temporal, config.cache)
    originals = Originals(trained.record, _seconds(trained))
    for start in range(0, len(inputs), _FILES):
        yield from _answer(trained, inputs[start : start + _FILES], settings, originals, progress)


def answer_all(trained: Trained, inputs: Sequence[Input], console: Console) -> list[Answer]:
    """The same, with a warning of files of a kind that the run never saw, and a bar."""
    _warn_of_kinds(trained.record, [one.kind for one in inputs], console)
    with console.progress() as bar:
        return list(predict_inputs(trained, inputs, bar))


def _seconds(trained: Trained) -> float:
    if trained.changes.has("dataset.file_timeout"):
        return trained.config.dataset.file_timeout
    return min(_SECONDS, trained.config.dataset.file_timeout)


def _answer(
    trained: Trained,
    inputs: Sequence[Input],
    settings: CutSettings,
    originals: Originals,
    progress: Progress | None,
) -> Iterator[Answer]:
    known = {str(place): one for place, one in enumerate(inputs) if one.kind}
    with scratch_folder("predict") as folder:
        prepare_jobs(originals.jobs(known), folder, settings, trained.config.dataset.workers, progress)
        records = read_records(folder)
        store = CropStore(folder, {name: records[name] for name in known})
        table = pd.DataFrame({"sample_id": [*known], "label": 0, "method": "", "dataset": ""})
        scored = trained.score(ClipSet(store, table), "")
        scores = dict(zip(known, scored.samples["score"], strict=True))
        clips = dict(iter(scored.clips.groupby("sample_id")["logit"]))
        looks = settings.faces not in ("center", "none")
        for place, one in enumerate(inputs):
            name = str(place)
            if name not in known:
                yield Answer(one, reason=one.reason, detail=one.detail)
                continue
            probabilities = sigmoid(clips[name].to_numpy()) if name in clips else np.empty(0)
            yield _read(trained, one, records[name], float(scores[name]), probabilities, looks)


def _read(trained: Trained, one: Input, record: Record, score: float, clips: np.ndarray, looks: bool) -> Answer:
    if record["status"] != "ok":
        return Answer(one, reason=record["status"], detail=record["reason"])
    frames, filled = int(record["frames"]), int(record["filled"])
    faces = frames - filled if looks else None
    if np.isnan(score):
        return Answer(one, faces=faces, frames=frames, reason="not_a_number", detail="the model's score is NaN")
    decision = trained.decision
    fake = bool(decision.predicts_fake(np.array([score]))[0])
    threshold = decision.applied_probability
    probability = None if threshold is None else float(decision.calibrated(np.array([score]))[0])
    return Answer(
        input=one,
        predicted="FAKE" if fake else "REAL",
        probability=probability,
        confidence=None if probability is None else probability if fake else 1 - probability,
        tied=probability is not None and probability == threshold and score != decision.applied_threshold,
        score=score,
        clips=tuple(clips.tolist()),
        faces=faces,
        frames=frames,
    )


class Originals:
    """The videos that a run's fakes were made from: training cropped such a fake where its original's face is.

    A file of the run's data set is recognised by its content, wherever it lies now.

    Args:
        record: The run.
        seconds: For each file, as :class:`deepfake.data.prepare_worker.Job` counts them.
    """

    def __init__(self, record: RunRecord, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._originals: dict[str, tuple[str, Path]] = {}
        if not (record.has(files.MANIFEST) and record.has(files.PROVENANCE)):
            return
        table = record.manifest("dataset", "path")
        if "original" not in table or "sha256" not in table:
            return
        roots = record.provenance().get("data", {}).get("roots", {})
        where = {
            str(row.sample_id): Path(roots.get(str(row.dataset), "")) / plain_path(str(row.path))
            for row in table.itertuples()
        }
        made = table[table["original"].isin(where.keys()) & (table["sha256"].fillna("") != "")]
        self._originals = {str(row.sha256): (str(row.original), where[str(row.original)]) for row in made.itertuples()}

    def jobs(self, inputs: Mapping[str, Input]) -> list[Job]:
        """A job for each input by its name, and one for each original that is needed and still there."""
        jobs: dict[str, Job] = {}
        for name, one in inputs.items():
            original = ""
            if self._originals and one.kind == "video":
                known = stamp(one.path, Deadline(time_limit(Job(name, one.path, one.kind, seconds=self._seconds))))
                sample, file = self._originals.get(str(known["sha256"]), ("", Path()))
                if sample and file.is_file():
                    original = f"original of it: {sample}"
                    jobs[original] = Job(original, file, "video", seconds=self._seconds)
            jobs[name] = Job(name, one.path, one.kind, original, seconds=self._seconds)
        return list(jobs.values())


def as_json(trained: Trained, answers: Sequence[Answer]) -> dict[str, Any]:
    """Everything for other programs; ``schema`` changes when a field changes its meaning or goes."""
    decision, record = trained.decision, trained.record
    return {
        "schema": "deepfake/predict/1",
        "run": {"name": record.name, "id": record.run_id},
        "threshold": decision.applied_threshold,
        "threshold_probability": decision.applied_probability,
        "threshold_fitted_by": None if decision.threshold is None else decision.method,
        "calibration": None if decision.calibrator is None else decision.calibrator.to_dict()["method"],
        "unavailable": dict(decision.unavailable),
        "pooling": decision.pooling,
        "results": [_result(answer) for answer in answers],
    }


#: What the columns of :func:`as_table` hold; numbers that are not there are NaN, texts None.
_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("path", "kind", "class"), object),
    **dict.fromkeys(("probability", "confidence"), float),
    "tied": bool,
    "score": float,
    "spread_clips": "Int64",
    **dict.fromkeys(("spread_low", "spread_high", "spread_std"), float),
    **dict.fromkeys(("faces_found", "faces_frames"), "Int64"),
    **dict.fromkeys(("reason_code", "reason_detail"), object),
}


def as_table(answers: Sequence[Answer]) -> pd.DataFrame:
    """One row per answer: what ``--json`` says of it, nested fields as ``spread_low``, ``faces_found`` …"""
    rows: list[dict[str, Any]] = []
    for result in map(_result, answers):
        nested = {f"{name}_{field}": one for name in result for field, one in (_fields(result[name])).items()}
        rows.append({**result, **nested})
    return pd.DataFrame(
        {name: pd.Series([row.get(name) for row in rows], dtype=kind) for name, kind in _COLUMNS.items()}
    )


def _fields(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _result(answer: Answer) -> dict[str, Any]:
    clips = np.array(answer.clips)
    return {
        "path": printable(str(answer.input.path)),
        "kind": answer.input.kind or None,
        "class": answer.predicted,
        "probability": answer.probability,
        "confidence": answer.confidence,
        "tied": answer.tied,
        "score": answer.score,
        "spread": {"clips": len(clips), "low": clips.min(), "high": clips.max(), "std": clips.std()}
        if answer.score is not None
        else None,
        "faces": None if answer.faces is None else {"found": answer.faces, "frames": answer.frames},
        "reason": {"code": answer.reason, "detail": answer.detail} if answer.reason else None,
    }


EXAMPLES = (
    ("deepfake predict cnn_gru clip.mp4 photos/", "a table"),
    ("deepfake predict best:lr_batch --json 'videos/*.mp4'", "for other programs"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run, what to look at, and how to say it."""
    parser.add_argument(
        "run", metavar="RUN", help="an MLflow run id, a run's name or folder, study:number or best:study"
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="videos, images, folders, globs; key=value changes")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, and nothing else")


def main(arguments: argparse.Namespace) -> int:
    """Answer for every input; 3 where one has no answer."""
    overrides = [text for text in arguments.paths if _OVERRIDE.match(text) and not Path(text).exists()]
    inputs = named_inputs([text for text in arguments.paths if text not in overrides])
    console = Console(aside=arguments.json)
    trained = open_run(arguments.run, overrides, console)
    answers = answer_all(trained, inputs, console)
    if arguments.json:
        print(json.dumps(as_json(trained, answers), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        console.table(_table(answers, trained.record.name, trained.decision))
    return UNANSWERED if any(answer.reason for answer in answers) else 0


def _table(answers: Sequence[Answer], run: str, decision: Decision) -> Table:
    table = Table(title=f"{run}: {_threshold(decision)}", title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("class")
    for name in ("confidence", "P(fake)", "score", "clips", "faces"):
        table.add_column(name, justify="right")
    table.add_column("note")
    for answer in answers:
        spread = f"{min(answer.clips):.3f} to {max(answer.clips):.3f}" if answer.clips else ""
        faces = "" if answer.faces is None else f"{answer.faces} of {answer.frames}"
        why = f"{answer.reason}: {answer.detail}" if answer.reason else _explanation(answer, decision)
        values = (answer.confidence, answer.probability, answer.score)
        numbers = ("" if value is None else f"{value:.4f}" for value in values)
        style = {"FAKE": "red", "REAL": "green"}.get(answer.predicted or "", "")
        predicted = Text(answer.predicted or "", style)
        # Names may hold square brackets, which rich would take for its markup.
        table.add_row(Text(harmless(str(answer.input.path))), predicted, *numbers, spread, faces, Text(why))
    return table


def _threshold(decision: Decision) -> str:
    """Where FAKE begins, on the scale of each number that is shown, and where that comes from."""
    how = f"fitted by {decision.method} on {decision.fitted_on.get('data')}"
    said = how if decision.threshold is not None and decision.method != "fixed" else "not fitted"
    threshold = decision.applied_probability
    probable = "" if threshold is None else f", that is from a probability of {threshold:.4f} on"
    return f"FAKE from score {decision.applied_threshold:.4f} on{probable} ({said})"


def _explanation(answer: Answer, decision: Decision) -> str:
    """Why a class is named that is the less probable one, or one that is as probable as the threshold."""
    threshold = decision.applied_probability
    if threshold is None or answer.confidence is None:
        return ""
    if answer.tied:
        return f"as probable as the threshold, {threshold:.4f}: decided by its score"
    if answer.confidence < 0.5:
        return f"{answer.predicted} though less probable: the threshold lies at {threshold:.4f}"
    return ""


def _warn_of_kinds(record: RunRecord, kinds: Sequence[str], console: Console) -> None:
    """A detector that saw only face pictures knows nothing of whole frames, nor the other way round."""
    if not record.has(files.MANIFEST):
        return
    trained_on = set(record.manifest("kind")["kind"])
    strange = {kind for kind in kinds if kind and kind not in trained_on}
    for kind in sorted(strange):
        console.warn(
            f"run {record.name!r} was trained on {' and '.join(sorted(trained_on))} files only: what it says of a "
            f"{kind} is a guess; dataset.faces=mtcnn has faces cut where the run took whole pictures"
        )
