"""Arrays of all processes on every process. Knows nothing of what they mean."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed
from lightning_fabric import Fabric
from torch import nn

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
