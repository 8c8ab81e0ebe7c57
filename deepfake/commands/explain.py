"""``deepfake explain RUN FILE``: an overlay, a timeline and a page that say why a run calls a file what it does."""

from __future__ import annotations

import argparse
import json
import re
from datetime import datetime
from pathlib import Path

from deepfake.errors import UserError, printable
from deepfake.runs.answers import at_prior
from deepfake.runs.console import Console
from deepfake.runs.explanation import Explanation, as_values, explain
from deepfake.runs.inputs import named_inputs, split_words
from deepfake.runs.load import Ensemble, Trained, open_run
from deepfake.training.decision import meaning

#: The exit status when the file has no answer.
UNANSWERED = 3

EXAMPLES = (
    ("deepfake explain cnn_gru clip.mp4", "into outputs/explanations/"),
    ("deepfake explain best:lr_batch face.png --out why --prior 0.01", "a picture, where one in a hundred is fake"),
)
_PLAIN = re.compile(r"[^\w.-]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run, a file, and where to write."""
    parser.add_argument(
        "run", metavar="RUN", help="an MLflow run id, a run's name or folder, study:number or best:study"
    )
    parser.add_argument("words", nargs="+", metavar="FILE", help="a video or an image; key=value changes")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="where to write (default: outputs/explanations/…)")
    parser.add_argument("--prior", metavar="FRACTION", type=float, help="as of deepfake predict")
    parser.add_argument("--json", action="store_true", help="what is in explanation.json on standard output, too")


def main(arguments: argparse.Namespace) -> int:
    """Write the explanation; 3 where the file has no answer."""
    words, overrides = split_words(arguments.words)
    inputs = named_inputs(words)
    if len(inputs) != 1:
        raise UserError(f"{len(inputs)} files were named, and one is explained at a time", "name one video or image")
    console = Console(aside=arguments.json)
    trained = at_prior(open_run(arguments.run, overrides, console), arguments.prior)
    folder = arguments.out or _free(trained.changes.outputs / "explanations", inputs[0].path)
    with console.progress() as bar:
        found = explain(trained, inputs[0], folder, progress=bar)
    if arguments.json:
        print(json.dumps(as_values(trained, found), indent=2, ensure_ascii=False, allow_nan=False))
    _tell(trained, found, folder, console)
    return UNANSWERED if found.answer.reason else 0


def _free(place: Path, file: Path) -> Path:
    """A folder that is not there yet, named by the file and the time."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    name = _PLAIN.sub("_", printable(file.stem))[:60] or "file"
    made = place / f"{stamp}_{name}"
    return next(one for number in range(2, 1000) for one in (made, place / f"{made.name}-{number}") if not one.exists())


def _tell(trained: Trained | Ensemble, found: Explanation, folder: Path, console: Console) -> None:
    answer = found.answer
    if answer.reason:
        console.say(f"{answer.input.path}: no answer: {answer.reason}: {answer.detail}")
        return
    sure = "" if answer.probability is None else f", P(fake) {answer.probability:.4f}"
    console.say(f"{answer.input.path}: {answer.predicted}, score {answer.score:.4f}{sure}")
    console.say(meaning(trained.decision))
    for one in answer.outside:
        console.warn(one.detail)
    for note in found.notes:
        console.say(f"note: {note}")
    if not found.map_meaningful:
        console.warn(f"no map is painted, for it would mean nothing: {found.why}")
    console.say(f"explanation: {found.page or folder}")
