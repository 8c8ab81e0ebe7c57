"""How long a detector takes for one clip on its device. Knows no data: time does not depend on what is seen."""

from __future__ import annotations

import statistics
import time

import torch
from lightning_fabric import Fabric

from deepfake.models.detector import Detector

WARM_UPS, REPETITIONS = 2, 7
#: Seconds after which a slow detector is measured no further, once there are a few repetitions.
ENOUGH, FEWEST = 5.0, 3


def latency_ms(detector: Detector, frames: int, size: int, fabric: Fabric) -> float:
    """The median milliseconds of a forward pass at batch 1, in evaluation mode and the run's precision.

    Args:
        detector: Its mode is put back. One that reads stored features is measured as the whole detector it is of.
        frames: Of the clip, T.
        size: Height and width in pixels.
        fabric: Device and precision.
    """
    whole = detector
    if type(detector).extract is not Detector.extract:
        whole = Detector(
            detector.backbone, detector.head, detector.reads, freeze=detector.freeze, chunk=detector.chunk
        ).to(fabric.device)
    was_training = detector.training
    whole.eval()
    clip = torch.zeros(1, frames, 3, size, size, dtype=torch.uint8, device=fabric.device)
    mask = torch.ones(1, frames, dtype=torch.bool, device=fabric.device)
    times: list[float] = []
    began = time.perf_counter()
    with torch.inference_mode(), fabric.autocast():
        for number in range(WARM_UPS + REPETITIONS):
            start = time.perf_counter()
            # Reading the logit waits for the device.
            whole(clip, mask).logits.item()
            if number >= WARM_UPS:
                times.append(time.perf_counter() - start)
            if len(times) >= FEWEST and time.perf_counter() - began > ENOUGH:
                break
    whole.train(was_training)
    return 1000 * statistics.median(times)
