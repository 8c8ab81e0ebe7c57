"""A process that makes overlays with a run; see :mod:`deepfake.serving.overlays`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from deepfake.reading.file_answers import Input
from deepfake.serving.overlays import Paint, Painted, work


def open_painter(first: dict[str, Any]) -> Paint:
    """What paints with the run that the first line names, changes laid over it."""
    from deepfake.hydra_app import register_resolvers
    from deepfake.runs.console import Console
    from deepfake.runs.explanation import explain
    from deepfake.runs.load import open_run

    register_resolvers()
    trained = open_run(first["run"], first["changes"], Console())

    def paint(file: Input, folder: Path) -> Painted:
        found = explain(trained, file, folder, page=False)
        return Painted(found.overlay, found.why, found.map_meaningful, found.timeline)

    return paint


if __name__ == "__main__":
    sys.exit(work(open_painter))
