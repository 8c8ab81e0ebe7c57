"""Which epoch is the best so far, and when to stop. Knows metrics by name, no model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from deepfake.errors import UserError, nearest
from deepfake.metrics import METRICS, lacking

LOSS = "val/loss"


@dataclass
class Monitor:
    """Follows one validation metric; the first of equal epochs wins.

    Attributes:
        name: The metric, with ``val/`` before it.
        mode: ``max`` or ``min``.
        patience: Epochs without improvement before it says stop; None never does.
        notes: What was chosen differently from what was asked, and why.
        blind: There is nothing to validate on, so the last epoch is taken for the best.
    """

    name: str
    mode: str
    patience: int | None
    notes: list[str] = field(default_factory=list)
    blind: bool = False
    best_epoch: int = -1
    best_value: float | None = None
    waited: int = 0

    def update(self, epoch: int, metrics: dict[str, float]) -> bool:
        """Take an epoch's metrics; True if it is the best so far. The first always is."""
        value = metrics.get(self.name)
        sign = 1 if self.mode == "max" else -1
        better = value is not None and (self.best_value is None or sign * value > sign * self.best_value)
        if better or self.blind or self.best_epoch < 0:
            self.best_epoch, self.best_value, self.waited = epoch, value, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, float | int | None]:
        """Plain numbers that :meth:`load_state_dict` goes on from."""
        return {"best_epoch": self.best_epoch, "best_value": self.best_value, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float | int | None]) -> None:
        """Go on where another monitor of the same metric stopped."""
        self.best_epoch = int(state["best_epoch"] or 0)
        self.best_value = state["best_value"]
        self.waited = int(state["waited"] or 0)


def create_monitor(name: str, mode: str, patience: int | None, val_labels: np.ndarray) -> Monitor:
    """A monitor for ``trainer.monitor``, or for the validation loss where that metric cannot exist.

    Args:
        name: ``val/loss`` or ``val/`` and one of :data:`deepfake.metrics.METRICS`.
        mode: ``max`` or ``min``; must fit the metric.
        patience: See :class:`Monitor`.
        val_labels: Labels of the validation clips, to see whether both classes are there.

    Raises:
        UserError: No such metric is logged, or ``mode`` would keep its worst epoch.
    """
    known = {LOSS: True} | {f"val/{metric.name}": metric.less_is_better for metric in METRICS.values()}
    if name not in known:
        raise UserError(f"trainer.monitor={name!r} is not a validation metric", nearest(name, known))
    fitting = "min" if known[name] else "max"
    if mode != fitting:
        raise UserError(
            f"trainer.mode={mode} would keep the worst epoch by {name}", f"set trainer.mode={fitting} with this metric"
        )
    classes = set(np.asarray(val_labels).tolist())
    if not classes:
        return Monitor(
            name, mode, None, ["the val split has no clips: the last epoch is kept, not the best"], blind=True
        )
    if name == LOSS or not lacking(METRICS[name.removeprefix("val/")], np.asarray(val_labels)):
        return Monitor(name, mode, patience)
    only = "fake" if classes == {1.0} else "real"
    note = f"{name} is not available, the val split has only {only} samples: the best epoch follows {LOSS} instead"
    return Monitor(LOSS, "min", patience, [note])
