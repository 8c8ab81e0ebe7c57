"""Everything that only a GPU can tell of training, in one run of under eight minutes.

    python -m benchmarks.gpu            # measures, prints, keeps results/gpu.json; says so where there is no GPU
    python -m benchmarks.gpu --tiny     # walks the same way with tiny sizes on whatever there is; keeps nothing

Needs no data and no network. Wall-clock seconds, the device's queue emptied before each reading; ways that are compared
take turns. Clips come from a crop store made in the temporary folder.
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from lightning_fabric import Fabric

from benchmarks.aims import AIMS, MODELS
from benchmarks.making import make_splits
from benchmarks.measure import in_turns, machine, report, row
from benchmarks.sharing import trials_a_second
from benchmarks.sizes import TINY, Sizes
from benchmarks.step import bare, make_batch, ours, updater_for
from deepfake.data.clips import Batch, ClipSet
from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, Mean
from deepfake.training.autotune import DeviceClips, choose_workers, compile_or_not, without_trace
from deepfake.training.options import TrainerOptions
from deepfake.training.profiling import clip_flops, peak_flops
from deepfake.training.runtime import create_fabric, seed_everything
from deepfake.training.train_step import EpochSums

Row = dict[str, object]


class Bench:
    """One run of all that is measured.

    Args:
        sizes: How much.
        folder: For the crop store.
    """

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        self.sizes = sizes
        self.folder = folder
        self.fabric = create_fabric(TrainerOptions(precision="bf16"))
        self.clips: ClipSet = make_splits(folder, {"train": sizes.clips}, sizes.frames, sizes.pixels)["train"]

    def now(self) -> float:
        """Seconds, once the device has done all that it was given."""
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def detector(self, model: str) -> Detector:
        """A fresh one with random weights and the cheapest head."""
        torch.manual_seed(0)
        options = BackboneOptions(name=self.sizes.models[model], pretrained=False)
        return create_detector(options, Mean(), self.sizes.pixels)

    def batch(self) -> Batch:
        """Noise on the device."""
        return make_batch(self.sizes.batch, self.sizes.frames, self.sizes.pixels).to(self.fabric.device)

    def free(self) -> None:
        """Give back what the last part held."""
        gc.collect()
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()

    def step(self) -> Row:
        """Our step against the same by hand."""
        detector, batch, steps = self.detector("resnet50"), self.batch(), self.sizes.steps
        ways = {
            "ours": ours(copy.deepcopy(detector), batch, self.fabric, steps=steps),
            "bare": bare(copy.deepcopy(detector), batch, self.fabric, steps=steps),
        }
        seconds = self._turns(ways)
        ratio = seconds["ours"] / seconds["bare"]
        return _row("step", ratio, **_steps_ms(seconds, steps))

    def feeding(self, model: str) -> list[Row]:
        """Clips from the store, and from the device's memory, against the same step on one batch that lies there."""
        detector, steps = self.detector(model), self.sizes.steps
        resident = DeviceClips(self.clips, self.fabric.device)
        synthetic = _stepping(detector, self.fabric)
        workers, _ = choose_workers(detector, self.clips, "auto", self.sizes.batch, self.fabric)
        batch = self.batch()
        plan = self._plan(steps * (self.sizes.rounds + 2))
        pin = self.fabric.device.type == "cuda"
        store, memory = (iter(source.read(plan, 0, workers, pin)) for source in (self.clips, resident))
        ways: dict[str, Callable[[], object]] = {
            "synthetic": lambda: synthetic([batch] * steps),
            "store": lambda: synthetic(_take(store, steps)),
            "memory": lambda: synthetic(_take(memory, steps)),
        }
        seconds = self._turns(ways)
        self.clips.close()
        rate = {f"{name}_clips_s": steps * self.sizes.batch / value for name, value in seconds.items()}
        from_store, from_memory = (seconds["synthetic"] / seconds[name] for name in ("store", "memory"))
        return [
            _row(f"store {model}", from_store, workers=float(workers), **rate),
            _row(f"memory {model}", from_memory, **rate),
        ]

    def compiled(self) -> Row:
        """All that makes a step fast against plain float32 with TensorFloat-32."""
        plain = create_fabric(TrainerOptions(precision="32"))
        batch, steps = self.batch(), self.sizes.steps
        fast, slow = self.detector("resnet50"), self.detector("resnet50")
        fast.to(memory_format=torch.channels_last).to(self.fabric.device)  # type: ignore[call-overload]
        note = self._compile(fast, batch)
        ways = {
            "fast": ours(fast, batch, self.fabric, steps=steps),
            "plain": ours(slow, batch, plain, steps=steps, channels_last=False),
        }
        seconds = self._turns(ways)
        return _row("compiled", seconds["plain"] / seconds["fast"], note=note or "-", **_steps_ms(seconds, steps))

    def share_of_peak(self, model: str) -> Row:
        """Model FLOPs utilisation of our compiled step, the bare eager loop's own beside it."""
        detector, batch, steps = self.detector(model), self.batch(), self.sizes.steps
        by_hand = copy.deepcopy(detector)
        detector.to(memory_format=torch.channels_last).to(self.fabric.device)  # type: ignore[call-overload]
        with without_trace(detector):
            flops = clip_flops(detector, batch.clips[:1], batch.mask[:1])
        note = self._compile(detector, batch)
        ways = {
            "ours": ours(detector, batch, self.fabric, steps=steps),
            "bare": bare(by_hand, batch, self.fabric, steps=steps),
        }
        seconds = self._turns(ways)
        peak = peak_flops(self.fabric.device, self.fabric.strategy.precision.precision) or float("nan")
        used = {name: flops * self.sizes.batch * steps / value / peak for name, value in seconds.items()}
        detail = {"bare_eager_mfu": used["bare"], "gflop_a_clip": flops / 1e9, "note": note or "-"}
        return _row(f"mfu {model}", used["ours"], **detail)

    def sharing(self) -> Row:
        """Trials on stored features side by side on one device, against one after another."""
        device = self.fabric.device.type
        sizes = (self.sizes.trials, self.sizes.trial_clips, self.sizes.trial_epochs)
        alone, together = (trials_a_second(processes, *sizes, device) for processes in (1, self.sizes.trials))
        return _row("sharing", together / alone, alone_trials_s=alone, together_trials_s=together)

    def all(self) -> Iterable[Row]:
        """Every row of the table, each as soon as it is measured."""
        yield self.step()
        for model in MODELS:
            self.free()
            yield from self.feeding(model)
        self.free()
        yield self.compiled()
        for model in ("resnet50", "vit_base"):
            self.free()
            yield self.share_of_peak(model)
        self.free()
        yield self.sharing()

    def _turns(self, ways: dict[str, Callable[[], object]]) -> dict[str, float]:
        for warm_up in ways.values():
            warm_up()
        return in_turns(ways, self.sizes.rounds, self.now)

    def _compile(self, detector: Detector, batch: Batch) -> str:
        detector.train()

        def step() -> None:
            with self.fabric.autocast():
                loss = detector(batch.clips, batch.mask).logits.sum()
            loss.backward()

        return compile_or_not(detector, step, self.sizes.backend)

    def _plan(self, count: int) -> list[list[int]]:
        """So many batches, going round and round the clips."""
        n, size = len(self.clips), self.sizes.batch
        return [[(start * size + i) % n for i in range(size)] for start in range(count)]


def _stepping(detector: Detector, fabric: Fabric) -> Callable[[Iterable[Batch]], None]:
    """Takes our step on each batch it is given; copying to the device is part of it."""
    updater, schedule = updater_for(detector, fabric)

    def run(batches: Iterable[Batch]) -> None:
        sums = EpochSums()
        for i, batch in enumerate(batches):
            updater.step([batch], len(batch.labels), i, sums)
            schedule.after_update()

    return run


def _row(aim: str, ratio: float, **detail: float | str) -> Row:
    what, reach = AIMS[aim]
    return row(what, ratio, reach, **detail)


def _take(batches: Iterable[Batch], count: int) -> Iterable[Batch]:
    for _, batch in zip(range(count), batches, strict=False):
        yield batch


def _steps_ms(seconds: dict[str, float], steps: int) -> dict[str, float]:
    return {f"{name}_ms": 1000 * value / steps for name, value in seconds.items()}


def main() -> int:
    """Measure, print, keep; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tiny", action="store_true", help="walk the same way with tiny sizes; keeps nothing")
    tiny = parser.parse_args().tiny
    if not tiny and not torch.cuda.is_available():
        print("gpu: torch finds no CUDA device here; nothing was measured and nothing written")
        return 0
    seed_everything(0, deterministic=False)
    began, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        sizes = TINY if tiny else Sizes()
        for line in Bench(sizes, Path(folder)).all():
            print(f"{time.perf_counter() - began:5.0f} s  {line['ratio']}  {line['reach']}  {line['what']}", flush=True)
            rows.append(line)
    if tiny:
        return 0
    where = {**machine("torch", "timm", "lightning-fabric"), "device": torch.cuda.get_device_name()}
    method = (
        f"batches of {sizes.batch} clips of {sizes.frames} frames of {sizes.pixels} pixels, bf16 unless it says "
        f"otherwise, {sizes.steps} steps between readings, median of {sizes.rounds} interleaved rounds; "
        f"{time.perf_counter() - began:.0f} s in all"
    )
    report("gpu", method, rows, where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
