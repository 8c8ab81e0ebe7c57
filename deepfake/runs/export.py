"""A run into a folder in Hugging Face's form: its graph and weights, and all that its answers are made of.

What stands on the model card, :mod:`deepfake.runs.model_card` says; how the folder is read, :mod:`deepfake.reading`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepfake import __version__
from deepfake.data.cropping import CutSettings
from deepfake.data.prepare import cut_settings
from deepfake.errors import UserError
from deepfake.exporting.graph import MOST_APART, require_onnx, write_graph
from deepfake.files import appearing
from deepfake.reading import folder as names
from deepfake.runs.answers import seconds_for
from deepfake.runs.load import Ensemble, Trained
from deepfake.runs.model_card import model_card
from deepfake.tracking.provenance import package_versions
from deepfake.training.views import views_of

#: Packages whose versions are told, for they made what is in the folder.
_MADE_BY = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "opencv-python-headless", "av")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        apart: How far the graph's logits lie from PyTorch's at most, over all shapes that were tried.
    """

    folder: Path
    apart: float


def export_run(trained: Trained | Ensemble, target: Path) -> Exported:
    """Write a run's folder, whole or not at all.

    Args:
        trained: The run.
        target: A folder that does not exist, or is empty; its own folder does.

    Raises:
        UserError: It is an ensemble, what it takes is not installed, the graph lies too far from the detector, or there
            is something at ``target`` already.
    """
    if isinstance(trained, Ensemble):
        raise UserError(
            f"{trained.record} is an ensemble, and a folder holds one detector",
            f"export each of its runs: {', '.join(member.record.name for member in trained.members)}",
        )
    require_onnx()
    check_target(target)
    if target.is_dir():
        target.rmdir()
    with appearing(target) as made:
        made.mkdir()
        return replace(_write(trained, made), folder=target)


def check_target(target: Path) -> None:
    """Make sure that a folder can be written at a place where nothing is.

    Raises:
        UserError: It cannot.
    """
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {target.parent}", "make it first, or name another")
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError(f"{target} is there already", "name a folder that is not there yet, or an empty one")


def _write(trained: Trained, folder: Path) -> Exported:
    from safetensors.torch import save_file

    config = trained.config
    detector = trained.detector.to("cpu").float().eval()
    shape = (config.dataset.frames, config.dataset.size)
    apart = write_graph(detector, _views(trained), shape, folder / names.ONNX)
    save_file(
        {name: value.contiguous().clone() for name, value in detector.state_dict().items()}, folder / names.WEIGHTS
    )
    described = describe(trained, _copy_faces(trained, folder), apart)
    text = json.dumps(described, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / names.CONFIG).write_text(text, encoding="utf-8")
    (folder / names.CARD).write_text(model_card(trained, described), encoding="utf-8")
    names.seal(folder)
    return Exported(folder, apart)


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
    versions = package_versions()
    backbone = dataclasses.asdict(replace(config.backbone, pretrained=False, weights=None))
    outputs = {"logits": ["batch"], "frame_logits": ["batch", "time"]}
    return {
        "format": names.FORMAT,
        "kind": names.KIND,
        "written_by": {
            "program": "deepfake-sweeps",
            "version": __version__,
            "packages": {name: versions[name] for name in _MADE_BY if name in versions},
        },
        "run": {"name": record.name, "id": record.run_id},
        "architecture": {
            "backbone": backbone,
            "head": {"kind": type(config.head).__name__, **dataclasses.asdict(config.head)},
            "frames": config.dataset.frames,
            "size": config.dataset.size,
        },
        "labels": {"0": "REAL", "1": "FAKE"},
        "preprocessing": {
            "crops": dataclasses.asdict(settings),
            "finds_faces": config.dataset.faces not in ("center", "none"),
            "seconds": seconds_for(trained),
            "mean": list(detector.backbone.mean),
            "std": list(detector.backbone.std),
            "views": [dataclasses.asdict(view) for view in _views(trained)],
        },
        "scoring": {name: getattr(config.evaluation, name) for name in ("clips", "faces", "top_k")},
        "decision": trained.decision.to_dict(),
        "onnx": {
            "file": names.ONNX,
            "inputs": {
                "clips": ["uint8", "batch", "time", 3, config.dataset.size, config.dataset.size],
                "mask": ["bool", "batch", "time"],
            },
            "outputs": outputs,
            "parity": {"logits_apart": apart, "allowed": MOST_APART},
        },
    }
