"""The lines a run says of itself: what begins, how each epoch went, what came out. Knows only numbers and names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.metrics import METRICS, metric_names

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.config import RunConfig
    from deepfake.models.detector import Detector


def start_line(config: RunConfig, data: str, detector: Detector, fabric: Fabric) -> str:
    """What will run on what; ``data`` says how many samples lie in which split."""
    millions = sum(p.numel() for p in detector.parameters()) / 1e6
    trained = sum(p.numel() for p in detector.parameters() if p.requires_grad) / 1e6
    return (
        f"{config.name}: {config.backbone.name} + {type(config.head).__name__.lower()} "
        f"({millions:.2f} M parameters, {trained:.2f} M trained) on {config.dataset.name} ({data}), "
        f"{config.dataset.frames} frames of {config.dataset.size} px, batch {config.trainer.batch_size}, "
        f"{config.trainer.epochs} epochs, {fabric.device} x {fabric.world_size}"
    )


def epoch_line(epoch: int, epochs: int, metrics: Mapping[str, float]) -> str:
    """One epoch's losses, metrics and rate; ``epoch`` counts from 0, people from 1."""
    parts = [f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"]
    named = {"train/loss": "train loss", "val/loss": "val loss"}
    named |= {f"val/{name}": METRICS[name].title for name in metric_names(headline=True)}
    parts += [f"{text} {metrics[name]:.4f}" for name, text in named.items() if name in metrics]
    parts += [f"{metrics['samples_per_second']:.0f} clips/s"] if "samples_per_second" in metrics else []
    return "  ".join(parts)


def end_lines(folder: Path, metrics: Mapping[str, float], ui_command: str) -> str:
    """The test split's metrics, the run's folder, and how to open the tracking UI."""
    shown = ", ".join(
        f"{name} {metrics[f'test/{name}']:.4f}" if f"test/{name}" in metrics else f"{name} not available"
        for name in metric_names(headline=True)
    )
    return f"test: {shown} (epoch {int(metrics['best_epoch'])})\nrun: {folder}\ntracked: {ui_command}"
