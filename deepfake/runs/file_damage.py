"""What becomes of scores when files are damaged as a platform or a messenger does it, before any face is looked for.

Damage to clips (:mod:`deepfake.data.corruptions`) leaves frames and crops as they were. Here a file is made smaller or
compressed anew as a whole, and everything else happens again: frames, faces, crops, scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from deepfake.data.clips import ClipSet
from deepfake.data.crop_records import read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.encoding import write_video
from deepfake.data.manifest import Manifest
from deepfake.data.media import Frames, MediaError, Pixels, read_image
from deepfake.data.prepare import cut_settings
from deepfake.data.prepare_worker import Job
from deepfake.data.video import read_video
from deepfake.data.worker_pool import prepare_jobs
from deepfake.progress import Progress, bar
from deepfake.runs.artifacts import scratch_folder
from deepfake.runs.console import Console
from deepfake.runs.evaluate import EvaluatedData, Look, curve_point
from deepfake.training.scoring import average_samples

#: Of what is made smaller: what it is compressed with afterwards, which by itself does little.
_MILD_CRF, _MILD_QUALITY = 18, 95
_FPS = 25  # where a file does not say


@dataclass(frozen=True)
class FileKind:
    """One kind of damage to a whole file.

    Attributes:
        severities: Mildest first.
        unit: What the severity is.
        kinds: Of the samples that it is done to: ``video``, ``image``.
        write: From frames, a severity and a path without its ending to the file that was written.
    """

    severities: tuple[float, ...]
    unit: str
    kinds: tuple[str, ...]
    write: Callable[[Frames, float, Path], Path]


def _compress_video(frames: Frames, crf: float, path: Path) -> Path:
    return _write(frames.images, frames, path, crf=int(crf))


def _compress_image(frames: Frames, quality: float, path: Path) -> Path:
    return _write(frames.images, frames, path, quality=int(quality))


def _shrink(frames: Frames, fraction: float, path: Path) -> Path:
    import cv2

    height, width = frames.images.shape[1:3]
    size = (max(2, round(width * fraction)), max(2, round(height * fraction)))
    return _write((cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in frames.images), frames, path)


def _write(
    images: Iterable[Pixels], frames: Frames, path: Path, *, crf: int = _MILD_CRF, quality: int = _MILD_QUALITY
) -> Path:
    if frames.info.fps or frames.info.duration:
        file = path.with_suffix(".mp4")
        write_video(file, images, round(frames.info.fps) or _FPS, {"crf": str(crf), "preset": "veryfast"})
        return file
    import simplejpeg

    file = path.with_suffix(".jpg")
    for image in images:
        file.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorsubsampling="420"))
    return file


#: By name; how hard is chosen to span what files go through: a platform's copy, a messenger's, a copy of a copy.
FILE_KINDS: dict[str, FileKind] = {
    "file H.264": FileKind((28, 35, 42), "CRF", ("video",), _compress_video),
    "file JPEG": FileKind((70, 40, 15), "quality", ("image",), _compress_image),
    "file size": FileKind((0.5, 0.25), "share of the side", ("video", "image"), _shrink),
}


def file_curves(result: EvaluatedData, console: Console) -> dict[str, pd.DataFrame]:
    """A curve for each kind of damage to files, as :func:`deepfake.runs.evaluate.robustness_curves` gives them.

    A file that no longer shows a face, or cannot be read, counts for nothing; ``lost`` is how many of those that had a
    score have none.
    """
    table, options = result.target.manifest.table, result.target.config.evaluation
    scored = int((result.predictions["status"] == "ok").sum())
    curves = {}
    for name, kind in FILE_KINDS.items():
        if not table["kind"].isin(kind.kinds).any():
            continue
        rows = []
        for severity in kind.severities:
            with scratch_folder("damage") as folder, console.progress() as shown:
                text = f"{name} {severity:g}"
                written = _damaged_files(result.target.manifest, kind, severity, folder, shown, text)
                samples = average_samples(
                    [_scored(look, result, written, folder / str(n), shown) for n, look in enumerate(result.looks)]
                )
            left = int((samples["status"] == "ok").sum())
            rows.append(
                {
                    "severity": severity,
                    **curve_point(samples, options.level, result.units),
                    "lost": max(0, scored - left),
                }
            )
        curves[name] = pd.DataFrame(rows)
        curves[name].attrs["unit"] = kind.unit
    return curves


def _damaged_files(
    manifest: Manifest, kind: FileKind, severity: float, folder: Path, progress: Progress | None, text: str
) -> dict[str, tuple[Path, str]]:
    """Each sample's damaged file and what it is, by its id; of another kind its own, none of what cannot be read."""
    found = {}
    with bar(progress, len(manifest), text) as shown:
        for number, row in enumerate(manifest.table.itertuples(index=False)):
            file = manifest.file(str(row.dataset), str(row.path))
            if row.kind in kind.kinds:
                try:
                    frames = read_image(file) if row.kind == "image" else read_video(file, range)
                    file = kind.write(frames, severity, folder / f"file-{number}")
                except MediaError:
                    continue
                finally:
                    shown.advance(1)
            found[str(row.sample_id)] = (file, str(row.kind))
    return found


def _scored(
    look: Look, result: EvaluatedData, files: Mapping[str, tuple[Path, str]], folder: Path, progress: Progress | None
) -> pd.DataFrame:
    """A detector's predictions of the samples whose files these are; of all others without a score."""
    member, target = look.member, result.target
    settings = cut_settings(member.config.dataset, member.config.head.temporal, member.config.cache)
    folder.mkdir()
    jobs = [Job(sample, file, kind) for sample, (file, kind) in files.items()]
    prepare_jobs(jobs, folder, settings, member.config.dataset.workers, progress)
    store = CropStore(folder, read_records(folder), slack=settings.plan.slack)
    scored = member.score(ClipSet(store, target.manifest.table), target.split, progress)
    member.rest()
    return scored.samples
