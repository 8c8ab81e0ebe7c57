"""Device, precision, processes, seeds and signals of a run, decided once at its start. Knows no model and no data."""

from __future__ import annotations

import os
import random
import signal
import threading
import warnings
from types import FrameType, TracebackType
from typing import TypeVar

import numpy as np
import torch
import torch.distributed
from lightning_fabric import Fabric
from torch import nn

from deepfake.errors import UserError
from deepfake.installation import SCRIPT, available_cores
from deepfake.training.options import TrainerOptions

T = TypeVar("T")


def gather(value: T, fabric: Fabric) -> list[T]:
    """Each process's value, in the order of their ranks; with one process a list of one.

    Args:
        value: Anything that pickles; sizes may differ between processes.
        fabric: Whose processes.
    """
    if fabric.world_size == 1:
        return [value]
    gathered: list[T | None] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, value)
    return gathered  # type: ignore[return-value]


def share_buffers(module: nn.Module, fabric: Fabric) -> None:
    """Give every process the first one's buffers: batch statistics drift apart within a step."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


#: With several processes, how many optimizer steps lie between agreements: each is a wait for all of them.
AGREE_EVERY = 8


class Interruption:
    """While entered, SIGTERM only raises a flag; afterwards the former handler is back.

    Outside the main thread Python takes no handlers, so there it never asks to stop.

    Args:
        fabric: Its processes stop together, at the same step, though the signal reaches each at its own time; None for
            one process.
    """

    def __init__(self, fabric: Fabric | None = None) -> None:
        self._fabric = fabric
        self._flag = False
        self._process = os.getpid()
        self._former: object = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, self._raise_flag)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)  # type: ignore[arg-type]

    def asked(self, step: int | None = None) -> bool:
        """Whether to stop now.

        Args:
            step: Optimizer steps done; every process must ask with the same ones. None asks at once.
        """
        if self._fabric is None or self._fabric.world_size == 1:
            return self._flag
        if step is not None and step % AGREE_EVERY:
            return False
        flags = torch.tensor(float(self._flag), device=self._fabric.device)
        reduced = self._fabric.all_reduce(flags, reduce_op="sum")
        return bool(reduced.item() > 0)  # type: ignore[union-attr,unused-ignore]

    def _raise_flag(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            self._flag = True
            return
        # A loader process inherited this handler; for it SIGTERM is its parent saying that it is over.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


#: Lightning Fabric's names for ours.
_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def create_fabric(options: TrainerOptions) -> Fabric:
    """Find the device and, under torchrun, the other processes.

    Args:
        options: ``accelerator``, ``devices``, ``precision`` and ``tf32``. ``auto`` takes CUDA, then Apple's, then the
            CPU; bf16 where a CUDA device has it in hardware, fp16 on older ones, else float32.

    Returns:
        A launched Fabric: on one device, or data-parallel over torchrun's processes.

    Raises:
        UserError: The device is not there, cannot work in this precision, or several devices were asked for
            without torchrun.
    """
    accelerator = _accelerator(options.accelerator)
    local, world = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("WORLD_SIZE", "1"))
    elastic = "TORCHELASTIC_RUN_ID" in os.environ
    devices = local if elastic else _devices(options.devices)
    with warnings.catch_warnings():
        # Advice on starting processes, wherever Slurm is installed; ours are started by torchrun or a launcher.
        warnings.filterwarnings("ignore", "The `srun` command is available on your system")
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=world // local if elastic else 1,
            strategy="ddp" if elastic and world > 1 else "auto",
            precision=_precision(options.precision, accelerator),  # type: ignore[arg-type,unused-ignore]
        )
    fabric.launch()
    if accelerator == "cuda":
        torch.set_float32_matmul_precision("high" if options.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = options.tf32
    return fabric


def seed_everything(seed: int, deterministic: bool) -> None:
    """Fix every generator that libraries draw from, and choose algorithms that repeat themselves.

    Args:
        seed: For Python, NumPy and torch on all devices.
        deterministic: Same command, same numbers. Operations without a repeatable version warn. False lets
            cuDNN try which algorithm is fastest.
    """
    # lightning_fabric.seed_everything takes 32 bits only, and leaves what it took in the environment.
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        # cuBLAS repeats itself only with a fixed workspace; it reads this when CUDA starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Filling fresh memory would cost time at every step to guard against bugs we have tests for.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined,unused-ignore]
    torch.backends.cudnn.benchmark = not deterministic


def use_threads(count: int) -> None:
    """Compute with so many threads: another number adds in another order, which changes the last digits."""
    torch.set_num_threads(count)


def loader_workers(asked: str | int, fabric: Fabric) -> int:
    """How many loader processes each training process gets.

    Args:
        asked: A number, or ``auto``: none on the CPU, where they would take the cores that train; up to eight
            beside a device, as many as there are cores for.
    """
    if asked != "auto":
        return int(asked)
    if fabric.device.type == "cpu":
        return 0
    return max(1, min(8, available_cores() // fabric.world_size - 1))


def _accelerator(asked: str) -> str:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if asked == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    found = {"cuda": cuda, "gpu": cuda or mps, "mps": mps, "cpu": True}
    if not found[asked]:
        raise UserError(f"trainer.accelerator={asked}: torch finds no such device", "try trainer.accelerator=auto")
    return {"gpu": "cuda" if cuda else "mps"}.get(asked, asked)


def _devices(asked: str | int) -> int:
    if asked == "auto":
        return 1
    if not str(asked).isdigit() or int(asked) < 1:
        raise UserError(f"trainer.devices={asked!r} is not a number of devices", "try trainer.devices=auto")
    if int(asked) > 1:
        raise UserError(
            f"trainer.devices={asked} needs a process per device",
            f"start it with: torchrun --nproc_per_node={asked} {SCRIPT} ...",
        )
    return int(asked)


def _precision(asked: str, accelerator: str) -> str:
    if asked == "fp16" and accelerator == "cpu":
        raise UserError("trainer.precision=fp16 does not work on a CPU", "try trainer.precision=bf16")
    if asked == "auto":
        if accelerator != "cuda":
            return _PRECISIONS["32"]
        return _PRECISIONS["bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"]
    return _PRECISIONS[asked]
