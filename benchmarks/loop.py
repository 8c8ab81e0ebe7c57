"""What the loop around a step costs: loading batches, profiling, and two processes in the place of one.

    python -m benchmarks.loop

Needs no data and no network; takes about two minutes on two cores. Everything lies in the page cache.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.making import make_splits
from benchmarks.measure import in_turns, machine, report, row
from benchmarks.step import SIZE as STEP_SIZE
from benchmarks.step import make_batch, ours
from deepfake.data.clips import ClipSet
from deepfake.models.detector import create_detector
from deepfake.models.options import BackboneOptions, Lstm
from deepfake.training.options import AdamW, Cosine, TrainerOptions
from deepfake.training.runtime import create_fabric, seed_everything
from deepfake.training.trainer import FitOptions, Trainer

CLIPS, FRAMES, SIZE, BATCH, ROUNDS, STEPS_TAKEN = 48, 16, 224, 8, 15, 60
#: Steps of the data-parallel comparison; one batch holds the whole split, so that an epoch is a step.
STEPS, PARALLEL_CLIPS = 6, 16


def loading(folder: Path) -> dict[str, object]:
    """Batches as the loop gets them, against copying the same bytes out of the memory map and no more."""
    clips = make_splits(folder, {"train": CLIPS}, FRAMES, SIZE)["train"]
    batches = [list(range(start, start + BATCH)) for start in range(0, CLIPS, BATCH)]
    ways = {"ours": lambda: [len(batch.labels) for batch in clips.read(batches)], "bare": lambda: _gather(clips)}
    for warm_up in ways.values():
        warm_up()
    seconds = in_turns(ways, ROUNDS)
    per_clip = {f"{name}_ms": 1000 * value / CLIPS for name, value in seconds.items()}
    return row(
        "batch loading / a bare gather of the same bytes", seconds["ours"] / seconds["bare"], "<= 1.3", **per_clip
    )


def _gather(clips: ClipSet) -> None:
    records = list(clips.store.records.values())
    flat = clips.store.pixels(records[0]["part"])
    size = FRAMES * SIZE * SIZE * 3
    for start in range(0, CLIPS, BATCH):
        out = np.empty((BATCH, size), np.uint8)
        for place, record in enumerate(records[start : start + BATCH]):
            out[place] = flat[record["offset"] : record["offset"] + size]


def profiling() -> dict[str, object]:
    """Our step with the clock on and off."""
    torch.manual_seed(0)
    detector = create_detector(BackboneOptions(name="tiny", pretrained=False), Lstm(hidden=64), STEP_SIZE)
    fabric, batch = create_fabric(TrainerOptions(accelerator="cpu", precision="32")), make_batch()
    ways = {
        name: ours(copy.deepcopy(detector), batch, fabric, steps=1, profile=profile)
        for name, profile in (("off", False), ("on", True))
    }
    for warm_up in ways.values():
        warm_up()
    seconds = in_turns(ways, STEPS_TAKEN)
    per_step = {f"{name}_ms": 1000 * value for name, value in seconds.items()}
    return row("a step with profiling on / off", seconds["on"] / seconds["off"], "<= 1.02", **per_step)


def losses() -> list[float]:
    """The loss of each step of a short fit over however many processes this is one of."""
    options = TrainerOptions(epochs=STEPS, batch_size=PARALLEL_CLIPS, accelerator="cpu", precision="32")
    fabric = create_fabric(options)
    seed_everything(0, True)
    detector = create_detector(BackboneOptions(name="tiny", pretrained=False, freeze=True), Lstm(dropout=0.0), 32)
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder)
        splits = make_splits(own, {"train": PARALLEL_CLIPS, "val": 4}, 4, 32)
        result = Trainer(
            detector,
            splits["train"],
            splits["val"],
            FitOptions(options, AdamW(lr=1e-2), Cosine()),
            fabric,
            Path(str(fabric.broadcast(str(own)))),
        ).fit(lambda epoch, metrics: None)
        fabric.barrier()
    return [epoch["train/loss"] for epoch in result.history]


def parallel() -> dict[str, object]:
    """The losses of two processes that share each batch, against those of one."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, "-m", "benchmarks.loop", "--losses"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    two = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))
    off = max(abs(a - b) for a, b in zip(losses(), two, strict=True))
    what = "two processes over gloo and one: largest difference of a step's loss"
    return row(what, off, "<= 1e-5", steps=float(STEPS), last_loss=two[-1])


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", action="store_true", help="print the losses of this process and its like")
    torch.set_num_threads(1)
    if parser.parse_args().losses:
        found = losses()
        if torch.distributed.get_rank() == 0:
            print(json.dumps(found), flush=True)
        torch.distributed.destroy_process_group()
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [loading(Path(folder)), profiling(), parallel()]
    method = (
        f"loading: {CLIPS} clips of {FRAMES} x {SIZE} x {SIZE} in batches of {BATCH}, median of {ROUNDS} rounds; "
        f"profiling: tiny + LSTM, median of {STEPS_TAKEN} rounds of one step; one thread, CPU seconds, in turns; "
        f"two processes: frozen tiny + LSTM, {STEPS} steps at {PARALLEL_CLIPS} clips over all"
    )
    report("loop", method, rows, machine("numpy", "torch", "lightning-fabric"))


if __name__ == "__main__":
    main()
