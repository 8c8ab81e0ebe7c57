"""What a run's training sees, drawn before its first step: a picture says what augmentation does to one's own data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from deepfake.runs.build import Run
from deepfake.runs.selection import trained_on

if TYPE_CHECKING:
    from deepfake.data.clips import Batch
    from deepfake.tracking.figures.clips import SeenClip

#: In a run's figures.
SEEN = "training_clips.jpg"
_CHANGE = ("augment", "dataset", "backbone")  # keys of these groups change what is seen
_OF_CLASS = 3  # clips of each
_EPOCHS = {True: 5, False: 2}  # by whether clips are single images
_FRAMES = 3  # of longer clips: the first, the middle and the last one


def draw_seen(run: Run) -> None:
    """Draw clips of both classes as they are stored and as the first epochs see them.

    Training sees these very clips. Where it reads stored features there is nothing to see; and of a sweep's jobs the
    first one's picture is enough, unless they differ in how clips are changed.
    """
    context = run.context
    alike = context.number not in (None, 0) and not any(key.split(".")[0] in _CHANGE for key in context.swept)
    if run.config.features.cached or alike:
        return
    # matplotlib takes most of a second to import: only a run that draws pays for it.
    from deepfake.tracking.figures.clips import seen_clips
    from deepfake.tracking.figures.style import save

    found = _looks(run)
    if found:
        side = run.config.backbone.size or run.config.dataset.size
        save(seen_clips(found, side), run.folder.figures / SEEN)


def _looks(run: Run) -> list[SeenClip]:
    from deepfake.tracking.figures.clips import SeenClip
    from deepfake.training.train_step import changed

    clips, store = trained_on(run), run.data.store
    table = clips.table
    chosen = _chosen(clips.items, clips.labels)
    if not len(chosen):
        return []
    names = [str(table["sample_id"].iloc[row]) for row in clips.items[chosen, 0]]
    frames = np.unique(np.linspace(0, max(int(clips.lengths[chosen].min()) - 1, 0), _FRAMES).round()).astype(int)
    looks = [
        [store.clip(name, int(number))[0][frames]] for name, number in zip(names, clips.items[chosen, 1], strict=True)
    ]
    fake = [[bool(label == 1)] for label in clips.labels[chosen]]
    for epoch in range(min(_EPOCHS[len(frames) == 1], run.config.trainer.epochs)):
        batch: Batch = clips.fetch(chosen.tolist(), epoch)
        images, labels = changed(batch, run.config.backbone.size)
        seen = images if images.dtype == torch.uint8 else (images * 255).round()
        pixels = seen[:, frames].permute(0, 1, 3, 4, 2).to("cpu", torch.uint8).numpy()
        for place, (look, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            looks[place].append(look)
            fake[place].append(label >= 0.5)
    methods = table["method"].iloc[clips.items[chosen, 0]]
    whats = [_what(bool(label == 1), str(method)) for label, method in zip(clips.labels[chosen], methods, strict=True)]
    return [SeenClip(*one) for one in zip(names, whats, looks, fake, strict=True)]


def _what(fake: bool, method: str) -> str:
    if not fake:
        return "real"
    return f"fake,\n{method}" if method not in ("", "fake") else "fake"


def _chosen(items: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The first clips of samples spread over each class, real ones first."""
    chosen = []
    for label in (0, 1):
        of_class = np.flatnonzero((labels == label) & (items[:, 1] == 0))
        places = np.linspace(0, len(of_class) - 1, min(_OF_CLASS, len(of_class))).round().astype(int)
        chosen.append(of_class[places])
    return np.concatenate(chosen)
