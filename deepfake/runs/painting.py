"""A process that makes overlays with a run: a line names a file, a line says where its overlay lies.

Maps take gradients, hooks and a decoder of their own, so that it is neither the process that scores nor one that waits
for requests."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Load the run that the first line names, then paint until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not be read as an answer
    from deepfake.hydra_app import register_resolvers
    from deepfake.runs.console import Console
    from deepfake.runs.load import open_run

    first = json.loads(sys.stdin.readline())
    register_resolvers()
    trained = open_run(first["run"], first["changes"], Console())
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        try:
            print(json.dumps(_paint(trained, json.loads(line))), file=answers, flush=True)
        except BrokenPipeError:  # whoever asked is gone
            os._exit(1)


def _paint(trained: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Where an overlay lies and the scores along its time, or why there is none."""
    from deepfake.errors import UserError
    from deepfake.runs.explanation import explain
    from deepfake.runs.inputs import Input

    try:
        found = explain(trained, Input(Path(asked["file"]), asked["kind"]), Path(asked["folder"]), page=False)
    except UserError as error:
        return {"why": error.message}
    except Exception as error:
        # Whatever a file breaks, the next one may not.
        print(f"no overlay: {error!r}", file=sys.stderr, flush=True)
        return {"why": "making it failed"}
    timeline = [{"seconds": round(one.seconds, 3), "score": one.score, "face": one.face} for one in found.timeline]
    return {
        "overlay": None if found.overlay is None else str(found.overlay),
        "timeline": timeline,
        "why": found.why,
        "map": found.map_meaningful,
    }


if __name__ == "__main__":
    main()
