"""SIGTERM as a wish to stop at the next safe point, agreed on by all processes. Knows no training."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

import torch
from lightning_fabric import Fabric

#: With several processes, how many optimizer steps lie between agreements: each is a wait for all of them.
AGREE_EVERY = 8


class Interruption:
    """While entered, SIGTERM only raises a flag; afterwards the former handler is back.

    Outside the main thread Python takes no handlers, so there it never asks to stop.

    Args:
        fabric: Its processes stop together, at the same step, though the signal reaches each at its own time.
    """

    def __init__(self, fabric: Fabric) -> None:
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
        if self._fabric.world_size == 1:
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
