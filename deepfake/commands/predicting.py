"""Files to answers by a trained run, through the same cutting and scoring as its training. Prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepfake.commands.inputs import Input
from deepfake.commands.scratch import scratch_folder
from deepfake.commands.trained import Trained
from deepfake.data.clips import ClipSet
from deepfake.data.crops import Progress, cut_settings, prepare_jobs
from deepfake.data.cut import CutSettings
from deepfake.data.manifest import plain_path
from deepfake.data.media import Deadline
from deepfake.data.part import Record, read_records
from deepfake.data.store import CropStore
from deepfake.data.work import Job, stamp, time_limit
from deepfake.tracking import folder as files
from deepfake.tracking.record import RunRecord
from deepfake.training.pooling import sigmoid
from deepfake.training.score import score

#: Files whose crops lie on the disk at once.
_TOGETHER = 64
#: Seconds for one file, and one more for each megabyte, unless more were asked for: somebody waits for the answer.
_PATIENCE = 25.0


@dataclass(frozen=True)
class Answer:
    """What is said of one file.

    Attributes:
        input: The file.
        called: ``REAL`` or ``FAKE``; None where there is no answer.
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
    called: str | None = None
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
    originals = Originals(trained.record, _patience(trained))
    for start in range(0, len(inputs), _TOGETHER):
        yield from _answer(trained, inputs[start : start + _TOGETHER], settings, originals, progress)


def _patience(trained: Trained) -> float:
    if "file_timeout" in trained.given.under("dataset"):
        return trained.config.dataset.file_timeout
    return min(_PATIENCE, trained.config.dataset.file_timeout)


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
        scored = score(
            trained.detector,
            ClipSet(store, table),
            fabric=trained.fabric,
            batch_size=trained.batch_size,
            split="",
            options=trained.config.evaluation,
        )
        scores = dict(zip(known, scored.samples["score"], strict=True))
        clips = dict(iter(scored.clips.groupby("sample_id")["logit"]))
        looks = settings.faces not in ("center", "none")
        for place, one in enumerate(inputs):
            name = str(place)
            if name not in known:
                yield Answer(one, reason=one.reason, detail=one.detail)
                continue
            mine = sigmoid(clips[name].to_numpy()) if name in clips else np.empty(0)
            yield _read(trained, one, records[name], float(scores[name]), mine, looks)


def _read(trained: Trained, one: Input, record: Record, score: float, clips: np.ndarray, looks: bool) -> Answer:
    if record["status"] != "ok":
        return Answer(one, reason=record["status"], detail=record["reason"])
    frames, filled = int(record["frames"]), int(record["filled"])
    faces = frames - filled if looks else None
    if np.isnan(score):
        return Answer(one, faces=faces, frames=frames, reason="not_a_number", detail="the model's score is NaN")
    decision = trained.decision
    fake = bool(decision.calls(np.array([score]))[0])
    cut = decision.cut_probability
    probability = None if cut is None else float(decision.calibrated(np.array([score]))[0])
    return Answer(
        input=one,
        called="FAKE" if fake else "REAL",
        probability=probability,
        confidence=None if probability is None else probability if fake else 1 - probability,
        tied=probability is not None and probability == cut and score != decision.cut,
        score=score,
        clips=tuple(clips.tolist()),
        faces=faces,
        frames=frames,
    )


class Originals:
    """The videos that a run's own fakes were made from: training cut such a fake where its original's face is.

    A file of the run's data set is told by its content, wherever it lies now.

    Args:
        record: The run.
        seconds: For each file, as :class:`deepfake.data.work.Job` counts them.
    """

    def __init__(self, record: RunRecord, seconds: float = _PATIENCE) -> None:
        self._seconds = seconds
        self._originals: dict[str, tuple[str, Path]] = {}
        if not (record.has(files.MANIFEST) and record.has(files.PROVENANCE)):
            return
        table = record.manifest()
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
        "threshold": decision.cut,
        "threshold_probability": decision.cut_probability,
        "threshold_fitted_by": None if decision.threshold is None else decision.method,
        "calibration": None if decision.calibrator is None else decision.calibrator.to_dict()["method"],
        "unavailable": dict(decision.unavailable),
        "pooling": decision.pooling,
        "results": [_result(answer) for answer in answers],
    }


def _result(answer: Answer) -> dict[str, Any]:
    clips = np.array(answer.clips)
    return {
        "path": str(answer.input.path).encode("utf-8", "backslashreplace").decode(),
        "kind": answer.input.kind or None,
        "class": answer.called,
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
