"""A process that makes overlays with an exported folder; see :mod:`deepfake.serving.overlays`.

Scores are the graph's. Maps take the folder's weights, torch and captum; else boxes and scores are painted alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from deepfake.data.crop_records import read_records
from deepfake.data.prepare_worker import Job
from deepfake.data.worker_pool import prepare_jobs
from deepfake.errors import UserError
from deepfake.reading import Detector
from deepfake.reading.along import OVERLAYS, GraphLooker, Looker, look_along, paint_along
from deepfake.reading.detector import Cut
from deepfake.reading.file_answers import Input
from deepfake.reading.folder import DIGESTS, digest
from deepfake.serving.overlays import Paint, Painted, work


def open_painter(first: dict[str, Any]) -> Paint:
    """What paints with the folder that the first line names.

    Raises:
        UserError: It is not that folder any more.
    """
    folder = Path(first["folder"])
    detector = Detector.load(folder)
    if digest(folder / DIGESTS) != first["digest"]:
        raise UserError(f"{folder} holds another detector than that which answers", "start the service anew")
    looker = _looker(detector)

    def paint(file: Input, target: Path) -> Painted:
        cut, parts = target / "answer", target / "along"
        cut.mkdir()
        parts.mkdir()
        job = Job("0", file.path, file.kind, seconds=detector.seconds)
        prepare_jobs([job], cut, detector.settings, "auto")
        (answer,) = detector.read([Cut(file, read_records(cut)[job.sample_id], cut)])
        if answer.reason or answer.media is None:
            return Painted(None, answer.detail)
        along = look_along(job, answer.media, detector.settings, looker, parts)
        overlay = target / OVERLAYS[file.kind]
        paint_along(along, answer, detector.threshold, overlay)
        return Painted(overlay, along.check.why, along.check.meaningful, along.timeline)

    return paint


def _looker(detector: Detector) -> Looker:
    """With maps where this machine can make them."""
    try:
        from deepfake.exporting.maps import WeightLooker

        return WeightLooker(detector)
    except ImportError as error:
        missing = (error.name or "PyTorch").partition(".")[0]
        return GraphLooker(detector, f"one takes PyTorch and captum, and {missing} is not installed here")
    except UserError as error:
        return GraphLooker(detector, error.message)


if __name__ == "__main__":
    sys.exit(work(open_painter))
