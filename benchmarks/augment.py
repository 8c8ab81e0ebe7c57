"""What augmentation costs a training step: each group of conf/augment against ``basic``, from cached crops.

    python -m benchmarks.augment

Reading, changing and training on clips, as the loop does it in one process: of a single image by a lite EfficientNet
without weights, and of eight frames by the small network of the demo. CPU seconds on one thread, in turns. Needs no
data and no network; takes about three minutes.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.making import make_splits
from benchmarks.measure import in_turns, machine, report, row
from deepfake.data.clips import ClipSet
from deepfake.hydra_app import compose_run
from deepfake.models.detector import create_detector
from deepfake.models.options import BackboneOptions, Mean
from deepfake.training.train_step import changed

GROUPS = ("basic", "forensic", "strong")
#: Backbone, its frames' side, frames of a clip, clips of a batch.
CASES = (("tf_efficientnet_lite0", 224, 1, 16), ("tf_efficientnet_lite0", 224, 8, 4), ("tiny", 64, 8, 16))
ROUNDS = 9


def steps(folder: Path, name: str, size: int, frames: int, batch: int) -> dict[str, Callable[[], object]]:
    """A way of training on one batch for each group."""
    store = make_splits(folder, {"train": 4 * batch}, frames, size)["train"]
    torch.manual_seed(0)
    detector = create_detector(BackboneOptions(name=name, pretrained=False), Mean(), size)
    detector = detector.to(memory_format=torch.channels_last)
    ways: dict[str, Callable[[], object]] = {}
    for group in GROUPS:
        options = compose_run([f"augment={group}"]).augment
        clips = ClipSet(store.store, store.table, augment=options)
        ways[group] = _step(clips, copy.deepcopy(detector), batch)
    return ways


def _step(clips: ClipSet, detector: torch.nn.Module, size: int) -> Callable[[], object]:
    taken = [0]

    def step() -> None:
        taken[0] += 1
        start = taken[0] * size % len(clips)
        batch = clips.fetch(range(start, start + size), taken[0])
        images, labels = changed(batch)
        logits = detector(images, batch.mask).logits
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        detector.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Measure, print, keep."""
    torch.set_num_threads(1)
    rows = []
    for name, size, frames, batch in CASES:
        with tempfile.TemporaryDirectory() as folder:
            ways = steps(Path(folder), name, size, frames, batch)
            for warm_up in ways.values():
                warm_up()
            seconds = in_turns(ways, ROUNDS)
        for group in GROUPS[1:]:
            what = f"throughput of {group} / basic, {name}, clips of {frames} x {size}"
            detail = {f"{one}_ms": 1000 * seconds[one] / batch for one in ("basic", group)}
            rows.append(row(what, seconds["basic"] / seconds[group], ">= 0.8" if group == "strong" else "", **detail))
    method = f"reading, changing, forward and backward of a batch; median CPU seconds of {ROUNDS} rounds, one thread"
    report("augment", method, rows, machine("torch", "timm", "opencv-python-headless", "numpy"))


if __name__ == "__main__":
    main()
