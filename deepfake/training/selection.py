"""What chooses the best epoch beside the validation split as it is: sets that are scored, and fits without a part.

Knows clips and metrics; not where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from deepfake.data.clips import ClipSource
from deepfake.metrics import METRICS

#: What is told of each part and of all that counts together. A detector that orders validation without a mistake can be
#: improved by the second only.
MEASURES = ("roc_auc", "log_loss")
#: The metric of all together that chooses by default, and what each fold is chosen by.
SELECTED, VALIDATION = "select/roc_auc", "val/roc_auc"


def _mean(values: list[float], measure: str) -> float:
    return float(np.mean(values))


def _worst(values: list[float], measure: str) -> float:
    return max(values) if METRICS[measure].less_is_better else min(values)


COMBINE: Mapping[str, Callable[[list[float], str], float]] = {"mean": _mean, "worst": _worst}


@dataclass(frozen=True)
class Fold:
    """A fit without a part of the training clips.

    Attributes:
        train: What it is trained on.
        held: What it is validated on: the part that it never saw, and reals.
    """

    train: ClipSource
    held: ClipSource


@dataclass(frozen=True)
class Selection:
    """All that counts.

    Attributes:
        val: Whether validation as it is does.
        sets: Scored after each epoch, by name.
        folds: Trained an epoch before each of the fit's own, by name.
        combine: One of :data:`COMBINE`.
    """

    val: bool = True
    sets: Mapping[str, ClipSource] = field(default_factory=dict)
    folds: Mapping[str, Fold] = field(default_factory=dict)
    combine: str = "mean"

    @property
    def metrics(self) -> list[str]:
        """The names of what each epoch is told of it."""
        parts = [f"{name}/{measure}" for name in (*self.sets, *self.folds) for measure in MEASURES]
        return [f"select/{name}" for name in (*parts, *MEASURES)]

    def combined(self, values: Mapping[str, Mapping[str, float]], epoch: Mapping[str, float]) -> dict[str, float]:
        """Each of :data:`MEASURES` of each part, by the name of its metric, and that of all.

        Args:
            values: By the names of sets and folds.
            epoch: An epoch's metrics, of which those of validation count.

        Example:
            >>> Selection(combine="worst").combined({"JPEG": {"roc_auc": 0.75}}, {"val/roc_auc": 0.875})
            {'select/JPEG/roc_auc': 0.75, 'select/roc_auc': 0.75}
        """
        found: dict[str, float] = {}
        for measure in MEASURES:
            parts = {name: value[measure] for name, value in values.items() if measure in value}
            own = [epoch[f"val/{measure}"]] if self.val and f"val/{measure}" in epoch else []
            found |= {f"select/{name}/{measure}": value for name, value in parts.items()}
            if counted := [*parts.values(), *own]:
                found[f"select/{measure}"] = COMBINE[self.combine](counted, measure)
        return found
