"""Optimizer steps of trials whose parameters lie as rows: each at its own rate, as its own optimizer would step.

Torch's own kernels do the arithmetic, a row each, so that nothing depends on who steps beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from deepfake.compat import fused_optimizers
from deepfake.training.features.stacked import Stack
from deepfake.training.optimizers import Schedule


class RowUpdates(Protocol):
    """The optimizers of a stack's trials."""

    def step(self) -> None:
        """Step every trial by its row of gradients, at its rate of now."""

    def keep(self) -> None:
        """Give the optimizers their states back, and let the schedules know how many steps there were."""


def row_updates(stack: Stack, optimizers: Sequence[Optimizer], schedules: Sequence[Schedule]) -> RowUpdates:
    """What steps the trials of a stack; any optimizer does, those without a kernel for rows by their own step.

    Args:
        stack: Its rows are what is optimized.
        optimizers: Of the same class, on the very parameters that the stack was made of.
        schedules: Of their rates.
    """
    return KERNELS.get(type(optimizers[0]), _OwnSteps)(stack, optimizers, schedules)


def in_groups(optimizer: Optimizer) -> list[Tensor]:
    """An optimizer's parameters, group by group: so they are to lie in a row."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class _Kernels:
    """Base of those that step by torch's kernels; each group's part of a row is one tensor to them.

    Args:
        stack: See :func:`row_updates`.
        optimizers: Likewise.
        schedules: Likewise.
    """

    #: Of each parameter, what is kept that has its shape.
    kept: tuple[str, ...]

    def __init__(self, stack: Stack, optimizers: Sequence[Optimizer], schedules: Sequence[Schedule]) -> None:
        self._stack, self._optimizers, self._schedules = stack, optimizers, schedules
        self._updates = 0
        self._kernels = fused_optimizers()
        self._held = [torch.zeros_like(stack.rows) for _ in self.kept]
        self._order = [in_groups(optimizer) for optimizer in optimizers]
        for k, (optimizer, parameters) in enumerate(zip(optimizers, self._order, strict=True)):
            for name, held in zip(self.kept, self._held, strict=True):
                states = [optimizer.state.get(one, {}).get(name) for one in parameters]
                if states[0] is not None:
                    stack.take(held[k], states)
        self._groups: list[list[tuple[dict[str, Any], slice]]] = []
        for optimizer in optimizers:
            begin, groups = 0, []
            for group in optimizer.param_groups:
                end = begin + sum(parameter.numel() for parameter in group["params"])
                groups.append((group, slice(begin, end)))
                begin = end
            self._groups.append(_merged(groups))

    def step(self) -> None:
        """See :class:`RowUpdates`."""
        for k, (schedule, groups) in enumerate(zip(self._schedules, self._groups, strict=True)):
            for number, (group, _) in enumerate(groups):
                self.step_group(k, number, schedule.rate(group, self._updates))
        self._updates += 1

    def step_group(self, trial: int, number: int, rate: float) -> None:
        """Step one group of a trial's parameters."""
        raise NotImplementedError

    def keep(self) -> None:
        """See :class:`RowUpdates`."""
        for k, (optimizer, schedule) in enumerate(zip(self._optimizers, self._schedules, strict=True)):
            if self._groups[k][0][0].get("momentum") != 0:
                self._keep_state(k, optimizer)
            schedule.advance(self._updates)

    def _keep_state(self, trial: int, optimizer: Optimizer) -> None:
        states = [optimizer.state[one] for one in self._order[trial]]
        for name, held in zip(self.kept, self._held, strict=True):
            for one, state in zip(self._order[trial], states, strict=True):
                if state.get(name) is None:
                    state[name] = torch.zeros_like(one, memory_format=torch.preserve_format)
            self._stack.give(held[trial], [state[name] for state in states])


def _merged(groups: list[tuple[dict[str, Any], slice]]) -> list[tuple[dict[str, Any], slice]]:
    """Groups that differ in nothing are stepped at once."""
    merged: list[tuple[dict[str, Any], slice]] = []
    for group, place in groups:
        if merged and _settings(merged[-1][0]) == _settings(group):
            merged[-1] = (group, slice(merged[-1][1].start, place.stop))
        else:
            merged.append((group, place))
    return merged


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "name")}


class _AdamRows(_Kernels):
    kept = ("exp_avg", "exp_avg_sq")
    kernel = "adam"

    def __init__(self, stack: Stack, optimizers: Sequence[Optimizer], schedules: Sequence[Schedule]) -> None:
        super().__init__(stack, optimizers, schedules)
        counts = [o.state.get(order[0], {}).get("step", 0.0) for o, order in zip(optimizers, self._order, strict=True)]
        self._steps = torch.tensor([float(count) for count in counts], device=stack.rows.device)
        rows = zip(stack.rows, stack.gradients, *self._held, self._steps, strict=True)
        self._parts = [
            [[[tensor[place]] for tensor in tensors] + [[], [step]] for _, place in groups]
            for groups, (*tensors, step) in zip(self._groups, rows, strict=True)
        ]

    def step(self) -> None:
        """See :class:`RowUpdates`."""
        self._steps += 1
        super().step()

    def step_group(self, trial: int, number: int, rate: float) -> None:
        """See :class:`_Kernels`."""
        group = self._groups[trial][number][0]
        beta1, beta2 = group["betas"]
        self._kernels[self.kernel](
            *self._parts[trial][number],
            lr=rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def _keep_state(self, trial: int, optimizer: Optimizer) -> None:
        for parameter in self._order[trial]:
            # One each: what is loaded from a file has that too.
            optimizer.state[parameter]["step"] = self._steps[trial].clone()
        super()._keep_state(trial, optimizer)


class _AdamWRows(_AdamRows):
    kernel = "adamw"


class _SgdRows(_Kernels):
    kept = ("momentum_buffer",)

    def step_group(self, trial: int, number: int, rate: float) -> None:
        """See :class:`_Kernels`."""
        group, place = self._groups[trial][number]
        moves = group["momentum"] != 0
        # One that has never moved begins at nothing, to which the first gradient is added.
        self._kernels["sgd"](
            [self._stack.rows[trial, place]],
            [self._stack.gradients[trial, place]],
            [self._held[0][trial, place]] if moves else [],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=rate,
            dampening=0.0,
            nesterov=group["nesterov"],
            maximize=False,
            is_first_step=False,
        )


class _OwnSteps:
    """Any optimizer: each trial's steps by itself, on its own parameters."""

    def __init__(self, stack: Stack, optimizers: Sequence[Optimizer], schedules: Sequence[Schedule]) -> None:
        self._stack, self._optimizers, self._schedules = stack, optimizers, schedules
        self._order = [in_groups(optimizer) for optimizer in optimizers]

    def step(self) -> None:
        """See :class:`RowUpdates`."""
        for k, (optimizer, schedule) in enumerate(zip(self._optimizers, self._schedules, strict=True)):
            gradients = [torch.empty_like(parameter) for parameter in self._order[k]]
            self._stack.give(self._stack.gradients[k], gradients)
            for parameter, gradient in zip(self._order[k], gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.after_update()
            self._stack.take(self._stack.rows[k], self._order[k])

    def keep(self) -> None:
        """See :class:`RowUpdates`: nothing ever left them."""


#: By which kernels an optimizer's rows are stepped.
KERNELS: dict[type[Optimizer], Callable[[Stack, Sequence[Optimizer], Sequence[Schedule]], RowUpdates]] = {
    Adam: _AdamRows,
    AdamW: _AdamWRows,
    SGD: _SgdRows,
}
