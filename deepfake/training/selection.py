"""What chooses the best epoch beside the validation split as it is: sets that are scored, and fits without a part.

Knows clips and metrics; not where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from deepfake.data.clips import ClipSource

#: The metric of all that counts together.
SELECTED = "select/roc_auc"
#: What each epoch's validation metric is called here.
VALIDATION = "val/roc_auc"
COMBINE: Mapping[str, Callable[[list[float]], float]] = {"mean": lambda of: float(np.mean(of)), "worst": min}


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
        return [*(metric_of(name) for name in (*self.sets, *self.folds)), SELECTED]

    def combined(self, values: Mapping[str, float], validation: float | None) -> dict[str, float]:
        """Each ROC-AUC, by the name of its metric, and that of all.

        Args:
            values: By the names of sets and folds.
            validation: Of the validation split; None where it has none.

        Example:
            >>> Selection(combine="worst").combined({"JPEG": 0.75}, 0.875)
            {'select/JPEG/roc_auc': 0.75, 'select/roc_auc': 0.75}
        """
        counted = list(values.values())
        if self.val and validation is not None:
            counted.append(validation)
        found = {metric_of(name): value for name, value in values.items()}
        return found | ({SELECTED: COMBINE[self.combine](counted)} if counted else {})


def metric_of(name: str) -> str:
    """What the ROC-AUC of a set or fold is called."""
    return f"select/{name}/roc_auc"
