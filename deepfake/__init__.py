"""Experiment sweeps for deepfake detection: Hydra composes, Optuna chooses, MLflow remembers.

From Python: ``deepfake.train(...)``, ``sweep(...)``, ``load(RUN)`` and ``runs()``; see docs/python.md. They are
imported when they are first asked for: this module imports nothing.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

#: Where each public name is; their types are in __init__.pyi. Texts, for what lies below imports nothing from above.
_PUBLIC = {
    "train": "deepfake.api",
    "sweep": "deepfake.api",
    "load": "deepfake.api",
    "ensemble": "deepfake.api",
    "datasets": "deepfake.api",
    "Run": "deepfake.api",
    "Sweep": "deepfake.api",
    "Predictor": "deepfake.api",
    "Evaluation": "deepfake.api",
    "Reproduction": "deepfake.api",
    "SweepError": "deepfake.api",
    "UserError": "deepfake.errors",
}
__all__ = [  # noqa: PLE0604 - the keys are texts
    "__version__",
    "runs",
    *_PUBLIC,
]


def __getattr__(name: str) -> object:
    if name == "runs":
        # Both the package and a function; see there.
        return importlib.import_module("deepfake.runs")
    if name in _PUBLIC:
        found = globals()[name] = getattr(importlib.import_module(_PUBLIC[name]), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
