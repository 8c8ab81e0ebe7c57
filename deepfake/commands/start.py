"""The detector a run begins with: pretrained, random, or another run's; and whether it reads what it was made for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.commands.shelf import Shelf
from deepfake.config import RunConfig
from deepfake.tracking.store import Store

if TYPE_CHECKING:
    from deepfake.models.detector import Detector


def first_detector(config: RunConfig, store: Store, shelf: Shelf) -> Detector:
    """Build the configured detector with the weights it begins with.

    Args:
        config: ``trainer.init_from`` names a run, as :func:`deepfake.tracking.query.find_run` takes it, or a
            ``.safetensors`` file of one; all of its weights must fit.
        store: Where runs are remembered.
        shelf: Keeps pretrained weights for the next trial.

    Raises:
        UserError: There is no such run, or its detector is another one.
    """
    from deepfake.models.detector import create_detector
    from deepfake.training.checkpoint import load_weights

    keep = partial(shelf.take, "weights")
    origin = config.trainer.init_from
    if origin is None:
        return create_detector(config.backbone, config.head, config.dataset.size, keep)
    path = Path(origin).expanduser()
    if path.suffix != ".safetensors":
        from deepfake.tracking.query import find_run

        path = find_run(origin, store, config.outputs).weights()
    # All weights come from the file: none are fetched first to be overwritten.
    backbone = replace(config.backbone, pretrained=False, weights=None)
    detector = create_detector(backbone, config.head, config.dataset.size)
    load_weights(detector, path)
    return detector


def size_note(config: RunConfig) -> str:
    """What to say of weights that read images of another size than they were made for; empty where they do not."""
    backbone, size = config.backbone, config.dataset.size
    if config.trainer.init_from is not None or not (backbone.pretrained or backbone.weights):
        return ""
    from deepfake.models.backbone import made_for

    made = made_for(backbone.name)
    if made == size:
        return ""
    return f"{backbone.name} was made for images of {made} pixels and reads {size} here; dataset.size=auto takes {made}"
