"""``deepfake predict RUN PATH…``: REAL or FAKE for videos, images, folders and globs, by a trained run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from deepfake.errors import harmless
from deepfake.reading.file_answers import Answer, FaceAnswer, Input, as_result
from deepfake.runs.answers import at_prior, predict_inputs
from deepfake.runs.console import Console
from deepfake.runs.inputs import named_inputs, split_words
from deepfake.runs.load import Ensemble, Trained, open_run
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_record import RunRecord
from deepfake.training.decision import Decision, document, meaning

#: The exit status when some input has no answer.
UNANSWERED = 3


def answer_all(trained: Trained | Ensemble, inputs: Sequence[Input], console: Console) -> list[Answer]:
    """The same, with a warning of files of a kind that the run never saw, and a bar."""
    _warn_of_kinds(trained.record, [one.kind for one in inputs], console)
    with console.progress() as bar:
        return list(predict_inputs(trained, inputs, bar))


def as_json(trained: Trained | Ensemble, answers: Sequence[Answer]) -> dict[str, Any]:
    """Everything for other programs."""
    run = {"name": trained.record.name, "id": trained.record.run_id}
    return document(trained.decision, run, [as_result(answer) for answer in answers])


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
    **dict.fromkeys(("media_width", "media_height", "media_frames"), "Int64"),
    **dict.fromkeys(("media_fps", "media_duration", "media_bits_per_pixel", "media_face"), float),
    **dict.fromkeys(("media_codec", "outside"), object),
}


def as_table(answers: Sequence[Answer]) -> pd.DataFrame:
    """One row per answer: what ``--json`` says of it, nested fields as ``spread_low``, ``faces_found`` …"""
    rows: list[dict[str, Any]] = []
    for result in map(as_result, answers):
        nested = {f"{name}_{field}": one for name in result for field, one in (_fields(result[name])).items()}
        rows.append({**result, **nested, "outside": " ".join(one["code"] for one in result["outside"]) or None})
    return pd.DataFrame(
        {name: pd.Series([row.get(name) for row in rows], dtype=kind) for name, kind in _COLUMNS.items()}
    )


def _fields(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


EXAMPLES = (
    ("deepfake predict cnn_gru clip.mp4 photos/", "a table"),
    ("deepfake predict best:lr_batch --json 'videos/*.mp4'", "for other programs"),
    ("deepfake predict cnn_gru --csv --prior 0.01 videos/ > said.csv", "a row a file, where one in a hundred is fake"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run, what to look at, and how to say it."""
    parser.add_argument(
        "run", metavar="RUN", help="an MLflow run id, a run's name or folder, study:number or best:study"
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="videos, images, folders, globs; key=value changes")
    parser.add_argument(
        "--prior",
        metavar="FRACTION",
        type=float,
        help="give probabilities as they are where this fraction of files is fake, by Bayes' rule; classes stay",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--csv", action="store_true", help="a CSV on standard output, one row a file, and nothing else")
    shown.add_argument("--json", action="store_true", help="one JSON object on standard output, and nothing else")


def main(arguments: argparse.Namespace) -> int:
    """Answer for every input; 3 where one has no answer."""
    words, overrides = split_words(arguments.paths)
    inputs = named_inputs(words)
    console = Console(aside=arguments.json or arguments.csv)
    trained = at_prior(open_run(arguments.run, overrides, console), arguments.prior)
    answers = answer_all(trained, inputs, console)
    if arguments.json:
        print(json.dumps(as_json(trained, answers), indent=2, ensure_ascii=False, allow_nan=False))
    elif arguments.csv:
        as_table(answers).to_csv(sys.stdout, index=False)
    else:
        console.table(_table(answers, trained.record.name, trained.decision))
        console.say(meaning(trained.decision))
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
    """Why a class is named that is the less probable one, or one that is as probable as the threshold; and what each
    run of an ensemble and each of several faces was scored."""
    if answer.outside:
        told_of = ", ".join(one.code for one in answer.outside)
        return ", ".join(filter(None, [_said(answer, decision), f"outside of training: {told_of}"]))
    return _said(answer, decision)


def _said(answer: Answer, decision: Decision) -> str:
    told = [_contradiction(answer, decision), *(f"{name} {score:.3f}" for name, score in answer.members)]
    if len(answer.each_face) > 1:
        told += [f"face {number} at {_where(face)}: {face.score:.3f}" for number, face in enumerate(answer.each_face)]
    return ", ".join(filter(None, told))


def _contradiction(answer: Answer, decision: Decision) -> str:
    threshold = decision.applied_probability
    if threshold is None or answer.confidence is None:
        return ""
    if answer.tied:
        return f"as probable as the threshold, {threshold:.4f}: decided by its score"
    if answer.confidence < 0.5:
        return f"{answer.predicted} though less probable: the threshold lies at {threshold:.4f}"
    return ""


def _where(face: FaceAnswer) -> str:
    """The middle of a face's box and its frame, which is enough to tell it from others."""
    x0, y0, x1, y1 = face.box
    return f"({(x0 + x1) / 2:.0f}, {(y0 + y1) / 2:.0f}) of frame {face.frame}"


def _warn_of_kinds(record: RunRecord, kinds: Sequence[str], console: Console) -> None:
    """A detector that saw only face pictures knows nothing of whole frames, nor the other way round."""
    if not record.has(files.MANIFEST):
        return
    trained_on = set(record.manifest("kind")["kind"])
    strange = {kind for kind in kinds if kind and kind not in trained_on}
    for kind in sorted(strange):
        console.warn(
            f"run {record.name!r} was trained on {' and '.join(sorted(trained_on))} files only: what it says of "
            f"{kind}s is a guess; dataset.faces=mtcnn has faces cut where the run took whole pictures"
        )
