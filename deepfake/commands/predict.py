"""``deepfake predict RUN PATH…``: REAL or FAKE for videos, images, folders and globs, by a trained run."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from deepfake.commands.console import Console
from deepfake.commands.inputs import expand_inputs
from deepfake.commands.predicting import Answer, as_json, predict_inputs
from deepfake.commands.trained import open_run
from deepfake.errors import UserError, harmless
from deepfake.tracking import folder as files
from deepfake.tracking.record import RunRecord
from deepfake.training.decision import Decision

#: The exit status when some input has no answer.
UNANSWERED = 3

_OVERRIDE = re.compile(r"(dataset|evaluation|trainer|tracking|paths)\.[\w.]+=")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run, what to look at, and how to say it."""
    parser.add_argument("run", help="an MLflow run id, a run's name or folder, study:number or best:study")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="videos, images, folders, globs; key=value changes")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, and nothing else")


def main(arguments: argparse.Namespace) -> int:
    """Answer for every input; 3 where one has no answer."""
    overrides = [text for text in arguments.paths if _OVERRIDE.match(text) and not Path(text).exists()]
    inputs = expand_inputs([text for text in arguments.paths if text not in overrides])
    if not inputs:
        raise UserError("nothing to look at was named", "name videos, images, folders or globs behind the run")
    console = Console(aside=arguments.json)
    trained = open_run(arguments.run, overrides, console)
    _warn_of_kinds(trained.record, [one.kind for one in inputs], console)
    with console.progress() as bar:
        answers = list(predict_inputs(trained, inputs, bar))
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
        why = f"{answer.reason}: {answer.detail}" if answer.reason else _doubt(answer, decision)
        values = (answer.confidence, answer.probability, answer.score)
        numbers = ("" if value is None else f"{value:.4f}" for value in values)
        style = {"FAKE": "red", "REAL": "green"}.get(answer.called or "", "")
        called = Text(answer.called or "", style)
        # Names may hold square brackets, which rich would take for its markup.
        table.add_row(Text(harmless(str(answer.input.path))), called, *numbers, spread, faces, Text(why))
    return table


def _threshold(decision: Decision) -> str:
    """Where FAKE begins, on the scale of each number that is shown, and where that comes from."""
    how = f"fitted by {decision.method} on {decision.fitted_on.get('data')}"
    said = how if decision.threshold is not None and decision.method != "fixed" else "not fitted"
    cut = decision.cut_probability
    probable = "" if cut is None else f", that is from a probability of {cut:.4f} on"
    return f"FAKE from score {decision.cut:.4f} on{probable} ({said})"


def _doubt(answer: Answer, decision: Decision) -> str:
    """Why a class is named that is the less probable one, or one that is as probable as the threshold."""
    cut = decision.cut_probability
    if cut is None or answer.confidence is None:
        return ""
    if answer.tied:
        return f"as probable as the threshold, {cut:.4f}: decided by its score"
    if answer.confidence < 0.5:
        return f"{answer.called} though less probable: the threshold lies at {cut:.4f}"
    return ""


def _warn_of_kinds(record: RunRecord, kinds: Sequence[str], console: Console) -> None:
    """A detector that saw only face pictures knows nothing of whole frames, nor the other way round."""
    if not record.has(files.MANIFEST):
        return
    trained_on = set(record.manifest()["kind"])
    strange = {kind for kind in kinds if kind and kind not in trained_on}
    for kind in sorted(strange):
        console.warn(
            f"run {record.name!r} was trained on {' and '.join(sorted(trained_on))} files only: what it says of a "
            f"{kind} is a guess; dataset.faces=mtcnn has faces cut where the run took whole pictures"
        )
