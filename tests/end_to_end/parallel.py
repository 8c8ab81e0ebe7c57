"""One of the processes that test_parallel.py starts: fits, scores and writes what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from deepfake.models.options import Mean
from deepfake.training.options import AdamW, Cosine, TrainerOptions
from deepfake.training.runtime import create_fabric, seed_everything
from deepfake.training.scoring import score
from deepfake.training.trainer import FitOptions, Trainer
from tests.training.fakes import FakeClips, small_detector


def main(folder: Path, keys: str = "{}") -> None:
    options = TrainerOptions(epochs=2, batch_size=8, accumulate=2, accelerator="cpu", **json.loads(keys))
    fabric = create_fabric(options)
    seed_everything(0, True)
    detector = small_detector(Mean(dropout=0.0))
    val = FakeClips(7, seed=2, failed=1)
    result = Trainer(
        detector,
        FakeClips(24, seed=1),
        val,
        FitOptions(options, AdamW(lr=0.02), Cosine(), seed=3),
        fabric,
        folder,
    ).fit(lambda epoch, metrics: None)
    samples = score(detector, val, fabric=fabric, batch_size=4, split="val").samples
    weights = {name: tensor.flatten().tolist() for name, tensor in detector.state_dict().items()}
    written = {"history": result.history, "samples": samples.to_dict("list"), "weights": weights}
    (folder / f"rank{fabric.global_rank}.json").write_text(json.dumps(written))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
