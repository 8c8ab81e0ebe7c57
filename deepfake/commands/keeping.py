"""What a run keeps: its inputs before it trains, its scores, figures and model after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepfake.commands.console import Console
from deepfake.commands.context import RunContext
from deepfake.config import RunConfig
from deepfake.tracking.folder import UNFINISHED, RunFolder, write_json, write_text
from deepfake.tracking.run import RunLog, TrackedRun

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.commands.data import Data
    from deepfake.commands.judging import Judgement
    from deepfake.data.manifest import Manifest
    from deepfake.models.detector import Detector
    from deepfake.training.trainer import FitResult


#: In a run's folder: what the audit of its data set found.
AUDIT = "audit.txt"


def keep_inputs(
    config: RunConfig,
    context: RunContext,
    folder: RunFolder,
    data: Data,
    log: RunLog,
    parameters: dict[str, Any],
    device: str,
    detector: Detector,
) -> None:
    """What the run is made of: its config, samples, what is wrong with them, and where and from what it ran."""
    from deepfake.commands.data import FAILURES, failures
    from deepfake.data.digests import known_digests

    folder.write_config(context.composed, context.resolved, context.overrides)
    folder.write_manifest(known_digests(data.manifest, data.store.records))
    failed = failures(data.store)
    if not failed.empty:
        write_text(folder.path / FAILURES, failed.to_csv())
    write_text(folder.path / AUDIT, data.audit.text())
    write_json(folder.path / "audit.json", data.audit.as_dict())
    log.tags({"audit.warnings": len(data.audit.warnings), **_numbered("audit.warning", data.audit.warnings)})
    folder.write_provenance(provenance(config, data.manifest, data.store.key, context.choices, device, detector))
    log.params(parameters)
    log.dataset(data.manifest)


def _numbered(name: str, texts: list[str]) -> dict[str, object]:
    return {f"{name}.{number}": text for number, text in enumerate(texts, start=1)}


def provenance(
    config: RunConfig, manifest: Manifest, crops: str, choices: dict[str, str], device: str, detector: Detector | None
) -> dict[str, object]:
    """Where a run's numbers come from; ``detector`` is as it was before its first step."""
    import torch

    from deepfake.tracking.provenance import collect
    from deepfake.training.checkpoint import weights_digest

    parts = {} if detector is None else {"backbone": detector.backbone, "head": detector.head}
    return collect(
        seeds={"seed": config.seed, "split_seed": config.dataset.split_seed},
        data={
            "manifest": manifest.digest(),
            "crops": crops,
            "roots": {name: str(root) for name, root in manifest.roots.items()},
            "choices": choices,
        },
        device=device,
        weights={name: weights_digest(part) for name, part in parts.items()},
        threads=torch.get_num_threads(),
    )


def score_and_keep(
    config: RunConfig,
    data: Data,
    detector: Detector,
    fabric: Fabric,
    folder: RunFolder,
    log: RunLog,
    result: FitResult,
    console: Console,
) -> dict[str, float]:
    """Validation and, once, test are scored with the best epoch's weights."""
    from deepfake.commands.judging import judge
    from deepfake.training.latency import latency_ms

    judgement = judge(config, data, detector, fabric, result.batch_size, result.workers)
    judgement.metrics |= {
        "best_epoch": float(result.best_epoch + 1),
        "epochs_run": float(result.epochs_run),
        "batch_size": float(result.batch_size),
        "train_seconds": result.seconds,
        "parameters": float(sum(p.numel() for p in detector.parameters())),
        "latency_ms": latency_ms(detector, int(max(data.splits["train"].lengths)), config.dataset.size, fabric),
    }
    if fabric.is_global_zero:
        _keep_outputs(folder, log, result, judgement, config)
        for name in ("val/roc_auc", "test/roc_auc"):
            if name in judgement.unavailable:
                console.warn(f"{name} is not available: {judgement.unavailable[name]}")
        if reason := judgement.decision.unavailable.get("threshold"):
            console.warn(f"no threshold was fitted, {config.trainer.threshold:g} stands: {reason}")
    return judgement.metrics


def _keep_outputs(folder: RunFolder, log: RunLog, result: FitResult, judgement: Judgement, config: RunConfig) -> None:
    from deepfake.tracking.figures import draw_run

    metrics, unavailable, predictions = judgement.metrics, judgement.unavailable, judgement.predictions
    folder.write_predictions(predictions)
    folder.write_clips(judgement.clips)
    folder.write_calibration(judgement.decision.to_dict())
    folder.write_history(result.history)
    folder.write_metrics({"metrics": metrics, "unavailable": unavailable, **judgement.notes, "notes": result.notes})
    draw_run(
        folder.figures,
        history=result.history,
        predictions=predictions[predictions["split"] == "test"],
        monitor=config.trainer.monitor,
        best_epoch=result.best_epoch + 1,
        threshold=config.trainer.threshold,
    )
    log.summary(metrics)
    if unavailable:
        log.tags({f"unavailable.{name}": reason for name, reason in unavailable.items()})
    log.folder(folder.path, skip=UNFINISHED)


def log_model(log: TrackedRun, config: RunConfig, folder: RunFolder) -> None:
    """Log the best weights of a run as a model of it."""
    from deepfake.tracking.model import DetectorSpec

    spec = DetectorSpec(
        config.backbone, config.head, config.dataset.frames, config.dataset.size, config.trainer.threshold
    )
    log.model(folder.best_weights, spec.to_json())
