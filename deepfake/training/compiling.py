"""torch.compile, tried before the first step and left aside where it fails. Knows no data."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from deepfake.training.memory import is_out_of_memory, without_trace


def compile_or_not(model: nn.Module, step: Callable[[], None], backend: str = "inductor") -> str:
    """Compile a module in place, and take it back if a step fails with it.

    Args:
        model: Its ``forward`` is compiled at its first call.
        step: Runs a forward and backward pass through it.
        backend: One of torch's.

    Returns:
        Empty, or a note that says why the module runs as it was.
    """
    model.compile(backend=backend)
    try:
        with without_trace(model):
            step()
    # Compilers fail in as many ways as there are models; whatever it was, the module itself still works.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        model._compiled_call_impl = None
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"trainer.compile=true failed here and was left aside: {reason[:200]}"
    return ""
