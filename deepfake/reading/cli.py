"""``deepfake-reader FOLDER FILE…``: REAL or FAKE by an exported detector, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepfake.errors import UserError, harmless
from deepfake.reading.detector import Detector

#: The exit status of a mistake, and that when some file has no answer.
MISTAKE, UNANSWERED = 2, 3
#: Those of other programs that are interrupted, or that nobody reads any more.
INTERRUPTED, PIPE_CLOSED = 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of the ``deepfake-reader`` command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="deepfake-reader", description="Say of files whether they are REAL or FAKE.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what deepfake export wrote")
    parser.add_argument("files", nargs="+", metavar="FILE", help="videos and images")
    parser.add_argument("--json", action="store_true", help="one JSON object, as deepfake predict --json prints it")
    parser.add_argument("--int8", action="store_true", help="read the weights of 8 bits, where the folder has them")
    arguments = parser.parse_args(argv)
    try:
        return _answer(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read is gone, as head is after its lines. Python flushes once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _answer(arguments: argparse.Namespace) -> int:
    if "" in arguments.files:
        raise UserError("an empty name names no file", "name videos and images")
    detector = Detector.load(arguments.folder, quantized=arguments.int8)
    results = detector.predict_all(arguments.files)
    if arguments.json:
        print(json.dumps(detector.document(results), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(f"{harmless(detector.name)}: FAKE from score {detector.threshold:.4f} on")
        for result in results:
            print(_line(result))
    sys.stdout.flush()
    return UNANSWERED if any(result["reason"] for result in results) else 0


def _line(result: dict[str, Any]) -> str:
    path = harmless(result["path"]).replace("\n", "%0A")  # a line of its own would read as another answer
    if result["reason"]:
        return f"{path}: no answer: {result['reason']['code']}: {harmless(result['reason']['detail'])}"
    probability = result["probability"]
    probable = "" if probability is None else f", P(fake) {probability:.4f}"
    return f"{path}: {result['class']} (score {result['score']:.4f}{probable})"
