"""Makes ``import torchvision`` (and so timm) work where a CPU-only torch stands beside PyPI's CUDA torchvision.

Knows nothing of models. Does nothing where torchvision imports by itself.
"""

from __future__ import annotations

import functools
import importlib
import sys

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.cache
def prepare_torchvision() -> torch.library.Library | None:
    """Import torchvision, defining the operators its compiled part would have brought if that cannot be loaded.

    Call it before the first import of timm, torchvision or ``mlflow.pytorch``. PyPI's torchvision is built for
    CUDA; beside a CPU-only torch its compiled part fails to load and its Python part then asks for operators
    nobody defined. Afterwards ``torchvision.ops`` and ``torchvision.io`` are still unusable; timm needs neither.

    Returns:
        The operator library, which must stay referenced to stay defined (the cache does that), or None
        where torchvision needed no help.

    Raises:
        RuntimeError: torchvision fails to import for another reason.
        ImportError: torchvision is not installed.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return None
    # The failed import left its submodules behind; they would be found half-initialised.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + _SCHEMA)  # type: ignore[no-untyped-call]
    importlib.import_module("torchvision")
    return library
