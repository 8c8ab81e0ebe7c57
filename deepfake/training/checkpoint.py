"""Which epoch is the best so far, and weights and states on disk: written whole, read without running code.

Weights may leave out what training left as it came with a pretrained backbone; a digest of that says what they go with.
Knows metrics by name; no training loop.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deepfake.errors import UserError, naming, nearest
from deepfake.files import appearing
from deepfake.metrics import METRICS, lacking

BEST = "best.safetensors"
LAST = "last.pt"
#: Raised when what is saved changes its meaning.
VERSION = 1


#: In the header of weights that are not whole: the digest of what else belongs to them.
_BASE = "base"


@dataclass(frozen=True)
class Base:
    """What is not saved of a module's state, since it can be had again.

    Attributes:
        names: Of its tensors.
        digest: SHA-256 of them.
    """

    names: frozenset[str]
    digest: str


def base_of(module: nn.Module, names: Collection[str]) -> Base:
    """These tensors of a module's state as a base for :func:`save_weights`."""
    return Base(frozenset(names), _digest({k: v for k, v in module.state_dict().items() if k in names}))


def save_weights(module: nn.Module, path: Path, notes: dict[str, str], base: Base | None = None) -> None:
    """All parameters and buffers as safetensors, atomically.

    Args:
        module: Its ``state_dict`` is saved.
        path: Ends as the file; never half-written.
        notes: Stored in the file's header.
        base: What is left out; None saves all.
    """
    if base is not None:
        notes = {**notes, _BASE: base.digest}
    _save_all_but(module, base.names if base is not None else frozenset(), path, notes)


def _save_all_but(module: nn.Module, left_out: Collection[str], path: Path, notes: dict[str, str]) -> None:
    from safetensors.torch import save

    weights = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items() if k not in left_out}

    def write(temporary: Path) -> None:
        # save_file would leave a file that only its owner can read, which a shared tracking server could not serve.
        temporary.write_bytes(save(weights, metadata=notes))

    _write(path, write)


def save_rest(module: nn.Module, weights: Path, path: Path) -> None:
    """What :func:`save_weights` left out of a file of a module's weights, as safetensors, atomically.

    Args:
        module: Holds it.
        weights: The file.
        path: Ends as the file with the rest; never half-written.
    """
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        named = frozenset(file.keys())
    _save_all_but(module, named, path, {})


def base_digest(path: Path) -> str | None:
    """The digest of what weights on disk leave out; None where they are whole, or are none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(_BASE)
    except (SafetensorError, OSError):
        return None  # reading them says why


def load_weights(module: nn.Module, path: Path, added: Collection[str] = ()) -> None:
    """What :func:`save_weights` saved, into a module of the same kind; it holds what was left out already.

    Args:
        module: Its state is exchanged.
        path: The file.
        added: Names of tensors that stay as they are where the file has none.

    Raises:
        UserError: No such file, it is of another model, or what was left out is not what the module holds.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"no weights at {path}", "the run never finished an epoch, or its checkpoints were deleted")
    hint = "use the backbone and head they were trained with"
    digest = base_digest(path)
    try:
        weights = load_file(path)
        state = module.state_dict()
        new = {name: state[name] for name in added if name not in weights}
        rest = {name: held for name, held in state.items() if digest and name not in weights and name not in new}
        if digest is not None and weights.keys() <= state.keys() and _digest(rest) != digest:
            raise UserError(
                f"the weights in {path} are a part, trained on top of another backbone's weights than these",
                "give the weights that the run began with, by backbone.pretrained or backbone.weights",
            )
        module.load_state_dict({**rest, **new, **weights})
    except SafetensorError as error:
        raise UserError(f"the weights in {path} cannot be read: {error}", "restore the file") from error
    except RuntimeError as error:
        raise UserError(f"the weights in {path} do not fit this model: {_misfit(module, weights)}", hint) from error


def _misfit(module: nn.Module, weights: dict[str, torch.Tensor]) -> str:
    """How two models differ, in a line: torch would name every tensor."""
    expected = module.state_dict()
    kinds = {
        "lacking": sorted(expected.keys() - weights.keys()),
        "unknown": sorted(weights.keys() - expected.keys()),
        "of another shape": sorted(
            n for n in expected.keys() & weights.keys() if expected[n].shape != weights[n].shape
        ),
    }
    return ", ".join(f"{len(names)} tensors {kind}, such as {names[0]}" for kind, names in kinds.items() if names)


def save_state(state: dict[str, Any], path: Path) -> None:
    """Tensors and plain values, atomically; see :func:`load_state`."""

    def write(temporary: Path) -> None:
        # Into a file of Python's: given a path, torch hides a full disk behind an error of its own.
        with temporary.open("wb") as file:
            torch.save({"version": VERSION, **state}, file)

    _write(path, write)


def load_state(path: Path) -> dict[str, Any]:
    """What :func:`save_state` saved, on the CPU, without running any code the file may hold.

    Raises:
        UserError: It cannot be read, or a newer version wrote it.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise damaged_state(path, error) from error
    if not isinstance(state, dict) or not isinstance(state.get("version", 0), int):
        raise damaged_state(path, "it holds no training state")
    if state.get("version", 0) > VERSION:
        raise UserError(f"{path} was written by a newer version of this program", "update the program to go on from it")
    return state


def damaged_state(path: Path, why: object) -> UserError:
    """The error for a training state that cannot be resumed."""
    return UserError(f"{path} cannot be read: {why}", "start the run anew, or remove it to begin from the first step")


def weights_digest(module: nn.Module) -> str:
    """A SHA-256 of all parameters and buffers, with their names and shapes; the same on every device."""
    return _digest(module.state_dict())


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)} ".encode())
        # As bytes, since NumPy has no bfloat16.
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as temporary, naming(path):
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


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

    def restart(self) -> None:
        """Forget all epochs so far: what comes is chosen from alone."""
        self.best_epoch, self.best_value, self.waited = -1, None, 0

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


def create_monitor(
    name: str, mode: str, patience: int | None, val_labels: np.ndarray, selected: Sequence[str] = ()
) -> Monitor:
    """A monitor for ``trainer.monitor``, or for the validation loss where that metric cannot exist.

    Args:
        name: ``val/loss`` or ``val/`` and one of :data:`deepfake.metrics.METRICS`.
        mode: ``max`` or ``min``; must fit the metric.
        patience: See :class:`Monitor`.
        val_labels: Labels of the validation clips, to see whether both classes are there.
        selected: Metrics of what else counts, which has both classes.

    Raises:
        UserError: No such metric is logged, or ``mode`` would keep its worst epoch.
    """
    known = {LOSS: True} | {f"val/{metric.name}": metric.less_is_better for metric in METRICS.values()}
    known |= {metric: METRICS[metric.rpartition("/")[2]].less_is_better for metric in selected}
    if name.startswith("select/") and not selected:
        raise UserError(
            f"trainer.monitor={name} is a metric of a selection, and only validation counts",
            "add selection=damaged, holdout_methods, holdout_sets or leave_one_out",
        )
    if name not in known:
        raise UserError(f"trainer.monitor={name!r} is not a validation metric", nearest(name, known))
    fitting = "min" if known[name] else "max"
    if mode != fitting:
        raise UserError(
            f"trainer.mode={mode} would keep the worst epoch by {name}", f"set trainer.mode={fitting} with this metric"
        )
    if name in selected:
        return Monitor(name, mode, patience)
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
