"""The parameters to train as groups; optimizers and learning-rate schedules by the class of their options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import SGD, Optimizer
from torch.optim import Adam as TorchAdam
from torch.optim import AdamW as TorchAdamW
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from deepfake.compat import prepare_torchvision
from deepfake.errors import UserError, nearest
from deepfake.models.detector import Detector
from deepfake.models.tuning import layers_of
from deepfake.training.options import (
    Adam,
    AdamW,
    Constant,
    Cosine,
    OptimizerOptions,
    Plateau,
    SchedulerOptions,
    Sgd,
    Timm,
)

Groups = list[dict[str, Any]]


def parameter_groups(
    detector: Detector,
    options: OptimizerOptions,
    backbone_lr: float | None = None,
    layer_decay: float | None = None,
) -> Groups:
    """The trained parameters with their rates, for an optimizer.

    Args:
        detector: Parameters that need no gradient are left out.
        options: The head's rate, and the decay of weights; norms, biases and positions get none.
        backbone_lr: The backbone's rate; None means a tenth of the head's, as it is trained already.
        layer_decay: Each of the backbone's layers has the rate of the next one times this, and the last one the
            backbone's (Clark et al. 2020, arXiv:2003.10555; Bao et al. 2021, arXiv:2106.08254); None: all have it.

    Returns:
        Groups named ``head``, ``head/no_decay``, ``backbone``, ``backbone/no_decay``, without empty ones; where rates
        decay, those of all layers but the last as ``backbone/0``, ``backbone/0/no_decay`` and so on, from the input.

    Raises:
        UserError: Rates are to decay, and the backbone names no layers.
    """
    rate = options.lr / 10 if backbone_lr is None else backbone_lr
    groups = _groups_of("head", detector.head, None, options.lr, options.weight_decay)
    if layer_decay is None:
        return groups + _groups_of("backbone", detector.backbone.model, None, rate, options.weight_decay)
    layers = layers_of(detector.backbone.model, f"backbone.layer_decay={layer_decay}", coarse=False)
    last = len(layers) - 1
    for i, names in enumerate(layers):
        part = "backbone" if i == last else f"backbone/{i}"
        scaled = rate * layer_decay ** (last - i)
        groups += _groups_of(part, detector.backbone.model, set(names), scaled, options.weight_decay)
    return groups


def logged_rates(optimizer: Optimizer) -> dict[str, float]:
    """An optimizer's rates as they are logged: the head's, the backbone's, and its first trained layer's where layers
    differ."""
    rates = {str(group["name"]): float(group["lr"]) for group in optimizer.param_groups}
    logged = {"lr": rates.get("head", rates.get("head/no_decay", 0.0))}
    backbone = [rate for name, rate in rates.items() if name.split("/")[0] == "backbone"]
    if backbone:
        logged["lr_backbone"] = max(backbone)
    if any(name.split("/")[1:2] not in ([], ["no_decay"]) for name in rates):
        logged["lr_backbone_first"] = min(backbone)
    return logged


def create_optimizer(options: OptimizerOptions, groups: Groups, *, fused: bool) -> Optimizer:
    """The optimizer that ``options`` describes.

    Args:
        options: An instance of one of the classes in :data:`OPTIMIZERS`.
        groups: From :func:`parameter_groups`: each has its own rate and decay.
        fused: One kernel for all parameters; not where a loss scaler must see the gradients before the step.

    Raises:
        UserError: No optimizer belongs to the options' class.
    """
    build = _of_class(OPTIMIZERS, options, "optimizer")
    optimizer: Optimizer = build(options, groups, fused)
    return optimizer


@dataclass
class Schedule:
    """Changes an optimizer's rates after each update, or after each epoch by a validation metric."""

    per_update: LambdaLR | None = None
    per_epoch: ReduceLROnPlateau | None = None

    def after_update(self) -> None:
        """To be called after every optimizer step."""
        if self.per_update is not None:
            self.per_update.step()

    def rate(self, group: Mapping[str, Any], ahead: int) -> float:
        """A parameter group's rate after so many more optimizer steps of this epoch."""
        inner = self.per_update
        if inner is None:
            return float(group["lr"])
        return float(group["initial_lr"] * inner.lr_lambdas[0](inner.last_epoch + ahead))

    def advance(self, updates: int) -> None:
        """What so many calls of :meth:`after_update` do."""
        if self.per_update is not None and updates:
            inner = self.per_update
            inner.last_epoch += updates - 1
            inner._step_count += updates
            inner.step()
            inner._step_count -= 1

    def after_epoch(self, value: float | None) -> None:
        """To be called with the monitored metric; None (not available) changes nothing."""
        if self.per_epoch is not None and value is not None:
            self.per_epoch.step(value)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers that :meth:`load_state_dict` goes on from."""
        inner = self.per_update or self.per_epoch
        return {} if inner is None else dict(inner.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another schedule of the same options stopped."""
        inner = self.per_update or self.per_epoch
        if inner is not None:
            inner.load_state_dict(state)


def create_schedule(options: SchedulerOptions, optimizer: Optimizer, *, updates: int, mode: str) -> Schedule:
    """The schedule that ``options`` describes.

    Args:
        options: An instance of one of the classes in :data:`SCHEDULES`.
        optimizer: Its groups' rates are what the schedule scales.
        updates: Optimizer steps in the whole run.
        mode: ``max`` or ``min``: which way the monitored metric improves.

    Raises:
        UserError: No schedule belongs to the options' class.
    """
    schedule: Schedule = _of_class(SCHEDULES, options, "scheduler")(options, optimizer, updates, mode)
    return schedule


def cosine_factor(update: int, updates: int, warmup: float, floor: float) -> float:
    """The fraction of the full rate at an update: linear up over ``warmup``, then half a cosine to ``floor``.

    The first update already has a rate above 0, and the last one has ``floor`` (Loshchilov & Hutter 2016,
    arXiv:1608.03983, without restarts).
    """
    warm = round(warmup * updates)
    if update < warm:
        return (update + 1) / (warm + 1)
    progress = (update - warm) / max(1, updates - 1 - warm)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _groups_of(part: str, module: Any, names: set[str] | None, rate: float, decay: float) -> Groups:
    """A module's trained parameters, or those of these names, with weight decay and without."""
    exempt = module.no_weight_decay() if hasattr(module, "no_weight_decay") else set()
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad and (names is None or n in names)]
    decayed = [p for name, p in trained if p.ndim > 1 and name not in exempt]
    plain = [p for name, p in trained if p.ndim <= 1 or name in exempt]
    groups: Groups = [
        {"name": part, "params": decayed, "lr": rate, "weight_decay": decay},
        {"name": f"{part}/no_decay", "params": plain, "lr": rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adam(options: Adam, groups: Groups, fused: bool) -> Optimizer:
    beta1, beta2 = options.betas
    return TorchAdam(groups, betas=(beta1, beta2), eps=options.eps, fused=fused)


def _adamw(options: AdamW, groups: Groups, fused: bool) -> Optimizer:
    beta1, beta2 = options.betas
    return TorchAdamW(groups, betas=(beta1, beta2), eps=options.eps, fused=fused)


def _sgd(options: Sgd, groups: Groups, fused: bool) -> Optimizer:
    nesterov = options.nesterov and options.momentum > 0
    return SGD(groups, momentum=options.momentum, nesterov=nesterov, fused=fused)


def _timm(options: Timm, groups: Groups, fused: bool) -> Optimizer:
    prepare_torchvision()
    from timm.optim import create_optimizer_v2, list_optimizers

    # Of those that timm lists, one asks for gradients of gradients.
    known = [name for name in list_optimizers() if name != "adahessian"]
    if options.name not in known:
        raise UserError(f"optimizer.name={options.name!r} is no optimizer of timm", nearest(options.name, known))
    decay, arguments = options.weight_decay, dict(options.arguments)
    try:
        # The groups' own rates and decays win; but without a rate of its own Adafactor would choose one.
        made: Optimizer = create_optimizer_v2(groups, options.name, options.lr, decay, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(
            f"timm's {options.name} cannot be made with optimizer.arguments={arguments}: {error}",
            "leave optimizer.arguments empty, or see timm.optim for what it takes",
        ) from error
    return made


def _constant(options: Constant, optimizer: Optimizer, updates: int, mode: str) -> Schedule:
    return Schedule()


def _cosine(options: Cosine, optimizer: Optimizer, updates: int, mode: str) -> Schedule:
    return Schedule(LambdaLR(optimizer, lambda update: cosine_factor(update, updates, options.warmup, options.floor)))


def _plateau(options: Plateau, optimizer: Optimizer, updates: int, mode: str) -> Schedule:
    return Schedule(
        per_epoch=ReduceLROnPlateau(
            optimizer,
            mode="max" if mode == "max" else "min",
            factor=options.factor,
            patience=options.patience,
            threshold=0.0,
            min_lr=options.floor,
        )
    )


#: Which optimizer each class of options describes. A new one is a class of options, a function and a line here.
OPTIMIZERS: dict[type[OptimizerOptions], Callable[..., Optimizer]] = {
    Adam: _adam,
    AdamW: _adamw,
    Sgd: _sgd,
    Timm: _timm,
}

#: The same for schedules.
SCHEDULES: dict[type[SchedulerOptions], Callable[..., Schedule]] = {
    Constant: _constant,
    Cosine: _cosine,
    Plateau: _plateau,
}


def _of_class(known: dict[type, Callable[..., Any]], options: object, what: str) -> Callable[..., Any]:
    if type(options) not in known:
        name = type(options).__name__
        raise UserError(f"no {what} is described by {name}", nearest(name, (one.__name__ for one in known)))
    return known[type(options)]
