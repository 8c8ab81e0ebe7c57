"""A run into a folder in Hugging Face's form: its graph and weights, and all that its answers are made of.

What stands on the model card, :mod:`deepfake.runs.model_card` says; how the folder is read, :mod:`deepfake.reading`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfake import __version__
from deepfake.data.clips import ClipSet
from deepfake.data.cropping import CutSettings
from deepfake.data.prepare import cut_settings
from deepfake.errors import UserError
from deepfake.exporting.graph import MOST_APART, require_onnx, write_graph
from deepfake.exporting.quantize import quantize
from deepfake.files import appearing
from deepfake.metrics import sample_metrics
from deepfake.progress import Progress, bar
from deepfake.reading import folder as names
from deepfake.reading.detector import open_session
from deepfake.runs.answers import seconds_for
from deepfake.runs.build import prepare
from deepfake.runs.console import Console
from deepfake.runs.evaluate import open_target
from deepfake.runs.load import Ensemble, Trained
from deepfake.runs.model_card import model_card
from deepfake.runs.reading_config import reading_config
from deepfake.tracking.provenance import installed_versions
from deepfake.training.checkpoint import save_weights
from deepfake.training.scoring import ClipScores, sample_table
from deepfake.training.views import views_of

#: Packages whose versions are told, for they made what is in the folder.
_CALIBRATING = 64  # clips by which the range of activations is found
_MADE_BY = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "opencv-python-headless", "av")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        apart: How far the graph's logits lie from PyTorch's at most, over all shapes that were tried.
        int8: What :func:`measure_int8` found, where it was asked for.
    """

    folder: Path
    apart: float
    int8: dict[str, Any] | None = None


def export_run(trained: Trained | Ensemble, target: Path, console: Console, *, int8: bool = False) -> Exported:
    """Write a run's folder, whole or not at all.

    Args:
        trained: The run.
        target: A folder that does not exist, or is empty; its own folder does.
        console: For progress.
        int8: Write the graph once more, of 8 bits, and measure on the run's data what that costs.

    Raises:
        UserError: It is an ensemble, what it takes is not installed, the graph lies too far from the detector, there is
            something at ``target`` already, or the data that 8 bits take is not there.
    """
    if isinstance(trained, Ensemble):
        raise UserError(
            f"{trained.record} is an ensemble, and a folder holds one detector",
            f"export each of its runs: {', '.join(member.record.name for member in trained.members)}",
        )
    require_onnx()
    check_target(target)
    # Before the graph, which takes a minute: the data may be gone.
    data = _read_data(trained, console) if int8 else None
    if target.is_dir():
        target.rmdir()
    with appearing(target) as made:
        made.mkdir()
        return replace(_write(trained, made, data, console), folder=target)


def check_target(target: Path) -> None:
    """Make sure that a folder can be written at a place where nothing is.

    Raises:
        UserError: It cannot.
    """
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {target.parent}", "make it first, or name another")
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError(f"{target} is there already", "name a folder that is not there yet, or an empty one")


def _write(trained: Trained, folder: Path, data: _Data | None, console: Console) -> Exported:
    config = trained.config
    detector = trained.detector.to("cpu").float().eval()
    shape = (config.dataset.frames, config.dataset.size)
    apart = write_graph(detector, _views(trained), shape, folder / names.ONNX)
    save_weights(detector, folder / names.WEIGHTS, {})
    described = describe(trained, _copy_faces(trained, folder), apart)
    if data is not None:
        quantize(folder / names.ONNX, folder / names.QUANTIZED, _Calibrating(data.known))
        described["onnx"]["int8"] = measure_int8(trained, folder, data, console)
    text = json.dumps(described, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / names.CONFIG).write_text(text, encoding="utf-8")
    if trained.domain is not None:
        (folder / names.DOMAIN).write_text(json.dumps(trained.domain.to_dict()), encoding="utf-8")
    (folder / names.CARD).write_text(model_card(trained, described), encoding="utf-8")
    names.seal(folder)
    return Exported(folder, apart, described["onnx"].get("int8"))


@dataclass(frozen=True)
class _Data:
    """What 8 bits are found and measured on.

    Attributes:
        known: Clips that training chose by; their activations say what range 8 bits are to span.
        tested: Clips that no part of training saw.
    """

    known: ClipSet
    tested: ClipSet


def _read_data(trained: Trained, console: Console) -> _Data:
    sets = []
    for split in ("val", "test"):
        target = open_target(trained.record, trained.changes, split, console)
        store = prepare(target.config, target.manifest, console)
        sets.append(ClipSet(store, target.manifest.table))
        if not len(sets[-1]):
            raise UserError(
                f"no {split} sample of the run can be read, on which 8 bits are measured", "see dataset.root"
            )
    return _Data(*sets)


class _Calibrating:
    """Some clips, evenly spread over a set, one by one, as often as they are asked for."""

    def __init__(self, clips: ClipSet) -> None:
        self._clips = clips

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for item in np.unique(np.linspace(0, len(self._clips) - 1, _CALIBRATING).round().astype(int)).tolist():
            batch = self._clips.fetch([item])
            yield np.ascontiguousarray(batch.clips.numpy()), batch.mask.numpy()


def measure_int8(trained: Trained, folder: Path, data: _Data, console: Console) -> dict[str, Any]:
    """What 8 bits cost on the run's test part: its ROC-AUC and accuracy with either graph, and how far scores move."""
    scores = {}
    for name in (names.ONNX, names.QUANTIZED):
        with console.progress() as progress:
            logits = _logits(folder / name, data.tested, progress)
        said = ClipScores(logits, None, np.ones((len(logits), 1), bool))
        scores[name] = sample_table(data.tested, said, "test", trained.config.evaluation)
    threshold = trained.decision.applied_threshold
    before, after = (sample_metrics(table[table["status"] == "ok"], threshold).values for table in scores.values())
    ok = scores[names.ONNX]["status"] == "ok"
    moved = (scores[names.QUANTIZED]["score"] - scores[names.ONNX]["score"])[ok].abs()
    return {
        "file": names.QUANTIZED,
        "split": "test",
        "samples": int(ok.sum()),
        "roc_auc": after.get("roc_auc"),
        "roc_auc_float": before.get("roc_auc"),
        "accuracy": after.get("accuracy"),
        "accuracy_float": before.get("accuracy"),
        "scores_moved": {"median": float(moved.median()), "most": float(moved.max())},
    }


def _logits(graph: Path, clips: ClipSet, progress: Progress) -> np.ndarray:
    """A graph's logit of each clip, float64 [n]."""
    session = open_session(graph)
    found = []
    with bar(progress, len(clips), graph.name) as scored:
        for item in range(len(clips)):
            batch = clips.fetch([item])
            given = {"clips": np.ascontiguousarray(batch.clips.numpy()), "mask": batch.mask.numpy()}
            found.append(session.run(["logits"], given)[0])
            scored.advance()
    return np.concatenate(found).astype(np.float64)


def _views(trained: Trained) -> Any:
    return views_of(trained.config.evaluation.views, trained.config.evaluation.view_scale)


def _copy_faces(trained: Trained, folder: Path) -> CutSettings:
    """How crops are cut, with the face detector's weights in the folder, named from there."""
    config = trained.config
    settings = cut_settings(config.dataset, config.head.temporal, config.cache)
    if settings.face_model is not None:
        found = Path(settings.face_model)
        (folder / names.FACES).mkdir()
        shutil.copyfile(found, folder / names.FACES / found.name)
        return replace(settings, face_model=f"{names.FACES}/{found.name}")
    if settings.faces == "mtcnn":
        from deepfake.data.faces.mtcnn import WEIGHTS, weights_folder

        (folder / names.FACES).mkdir()
        for name in WEIGHTS:
            shutil.copyfile(weights_folder() / name, folder / names.FACES / name)
        return replace(settings, face_model=names.FACES)
    return settings


def describe(trained: Trained, settings: CutSettings, apart: float) -> dict[str, Any]:
    """What ``config.json`` says."""
    config, record = trained.config, trained.record
    detector = trained.detector
    versions = installed_versions()
    backbone = dataclasses.asdict(replace(config.backbone, pretrained=False, weights=None))
    return {
        "format": names.FORMAT,
        "kind": names.KIND,
        "written_by": {
            "program": "deepfake-sweeps",
            "version": __version__,
            "packages": {name: versions[name] for name in _MADE_BY if name in versions},
        },
        "architecture": {
            "backbone": backbone,
            "head": {"kind": type(config.head).__name__, **dataclasses.asdict(config.head)},
            "frames": config.dataset.frames,
            "size": config.dataset.size,
        },
        "labels": {"0": "REAL", "1": "FAKE"},
        **reading_config(
            config, (record.name, record.run_id), trained.decision, settings, seconds_for(trained), detector.backbone
        ),
        "onnx": {
            "file": names.ONNX,
            "inputs": {
                "clips": ["uint8", "batch", "time", 3, config.dataset.size, config.dataset.size],
                "mask": ["bool", "batch", "time"],
            },
            "outputs": {"logits": ["batch"], "features": ["batch", "width"], "frame_logits": ["batch", "time"]},
            "parity": {"logits_apart": apart, "allowed": MOST_APART},
        },
    }
