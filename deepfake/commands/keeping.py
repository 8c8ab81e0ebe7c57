"""What a run keeps: its inputs before it trains, its scores, figures and model after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from deepfake.commands.console import Console
from deepfake.commands.context import RunContext
from deepfake.config import RunConfig
from deepfake.tracking.folder import UNFINISHED, RunFolder, write_json, write_text
from deepfake.tracking.run import RunLog, TrackedRun

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.commands.data import Data
    from deepfake.models.detector import Detector
    from deepfake.training.fit import FitResult


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
) -> None:
    """What the run is made of: its config, samples, what is wrong with them, and where and from what it ran."""
    from deepfake.commands.data import FAILURES, failures
    from deepfake.tracking.provenance import collect

    folder.write_config(context.composed, context.resolved, context.overrides)
    folder.write_manifest(data.manifest)
    failed = failures(data.store)
    if not failed.empty:
        write_text(folder.path / FAILURES, failed.to_csv())
    write_text(folder.path / AUDIT, data.audit.text())
    write_json(folder.path / "audit.json", data.audit.as_dict())
    log.tags({"audit.warnings": len(data.audit.warnings), **_numbered("audit.warning", data.audit.warnings)})
    folder.write_provenance(
        collect(
            seeds={"seed": config.seed, "split_seed": config.dataset.split_seed},
            data={
                "manifest": data.manifest.digest(),
                "crops": data.store.key,
                "roots": {name: str(root) for name, root in data.manifest.roots.items()},
                "choices": context.choices,
            },
            device=device,
        )
    )
    log.params(parameters)
    log.dataset(data.manifest)


def _numbered(name: str, texts: list[str]) -> dict[str, object]:
    return {f"{name}.{number}": text for number, text in enumerate(texts, start=1)}


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
    from deepfake.training.metrics import sample_metrics
    from deepfake.training.score import score

    metrics: dict[str, float] = {}
    unavailable: dict[str, str] = {}
    tables = []
    for split in ("val", "test"):
        scored = score(detector, data.splits[split], fabric=fabric, batch_size=result.batch_size, split=split)
        tables.append(scored.samples)
        found = sample_metrics(scored.samples, config.trainer.threshold)
        metrics |= {f"{split}/{name}": value for name, value in found.values.items()}
        unavailable |= {f"{split}/{name}": reason for name, reason in found.unavailable.items()}
        frames = scored.frame_metrics()
        metrics |= {f"{split}/frame/{name}": value for name, value in frames.values.items()}
        unavailable |= {f"{split}/frame/{name}": reason for name, reason in frames.unavailable.items()}
    metrics |= {
        "best_epoch": float(result.best_epoch),
        "epochs_run": float(result.epochs_run),
        "train_seconds": result.seconds,
        "parameters": float(sum(p.numel() for p in detector.parameters())),
    }
    if fabric.is_global_zero:
        _keep_outputs(folder, log, result, pd.concat(tables, ignore_index=True), metrics, unavailable, config)
        for name, reason in unavailable.items():
            if name in ("val/roc_auc", "test/roc_auc"):
                console.warn(f"{name} is not available: {reason}")
    return metrics


def _keep_outputs(
    folder: RunFolder,
    log: RunLog,
    result: FitResult,
    predictions: pd.DataFrame,
    metrics: dict[str, float],
    unavailable: dict[str, str],
    config: RunConfig,
) -> None:
    from deepfake.tracking.figures import draw_run

    folder.write_predictions(predictions)
    folder.write_history(result.history)
    folder.write_metrics({"metrics": metrics, "unavailable": unavailable, "notes": result.notes})
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
    from deepfake.tracking import model

    spec = model.DetectorSpec(
        config.backbone, config.head, config.dataset.frames, config.dataset.size, config.trainer.threshold
    )
    model.log_model(log, folder.best_weights, spec)
