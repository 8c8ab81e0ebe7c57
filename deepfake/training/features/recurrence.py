"""LSTM and GRU layers of several trials as batched matrix products over them, with gradients by hand.

What torch has for one trial (``nn.LSTM``, ``nn.GRU``) takes no stack of weights, and automatic differentiation of a
loop over time costs several times its arithmetic in small kernels. Here all that need not wait for the step before is
computed for all frames at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def lstm(x: Tensor, from_input: Tensor, from_state: Tensor, bias: Tensor, bias_state: Tensor) -> Tensor:
    """One LSTM layer (Hochreiter & Schmidhuber 1997), as :class:`torch.nn.LSTM` computes it, of K trials.

    Args:
        x: [K, B, T, D].
        from_input: [K, 4 H, D]: the entry, forget, cell and exit gates' weights.
        from_state: [K, 4 H, H].
        bias: [K, 4 H].
        bias_state: [K, 4 H].

    Returns:
        The states, [K, B, T, H].
    """
    driven = _driven(x, from_input, bias + bias_state)
    states: Tensor = _Lstm.apply(driven, from_state)  # type: ignore[no-untyped-call]
    return states.transpose(1, 2)


def gru(x: Tensor, from_input: Tensor, from_state: Tensor, bias: Tensor, bias_state: Tensor) -> Tensor:
    """One GRU layer (Cho et al. 2014, arXiv:1406.1078), as :class:`torch.nn.GRU` computes it, of K trials.

    Args:
        x: [K, B, T, D].
        from_input: [K, 3 H, D]: the reset, update and candidate gates' weights.
        from_state: [K, 3 H, H].
        bias: [K, 3 H].
        bias_state: [K, 3 H].

    Returns:
        The states, [K, B, T, H].
    """
    states: Tensor = _Gru.apply(_driven(x, from_input, bias), from_state, bias_state)  # type: ignore[no-untyped-call]
    return states.transpose(1, 2)


def _driven(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What the input gives to each gate at each frame, [K, T, B, G]."""
    trials, clips, frames, width = x.shape
    flat = x.transpose(1, 2).reshape(trials, frames * clips, width)
    return torch.baddbmm(bias[:, None], flat, weight.transpose(1, 2)).view(trials, frames, clips, -1)


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, driven: Tensor, from_state: Tensor) -> Tensor:
        trials, frames, clips, gates = driven.shape
        hidden = gates // 4
        back = from_state.transpose(1, 2)
        opened = torch.empty_like(driven)
        cells = driven.new_empty(trials, frames, clips, hidden)
        bent, states = torch.empty_like(cells), torch.empty_like(cells)
        for t in range(frames):
            raw = driven[:, t] if t == 0 else torch.baddbmm(driven[:, t], states[:, t - 1], back)
            now = opened[:, t]
            torch.sigmoid(raw, out=now)
            entry, forget, candidate, exit_ = now.chunk(4, dim=-1)
            torch.tanh(raw[..., 2 * hidden : 3 * hidden], out=candidate)
            torch.mul(entry, candidate, out=cells[:, t])
            if t:
                cells[:, t].addcmul_(forget, cells[:, t - 1])
            torch.tanh(cells[:, t], out=bent[:, t])
            torch.mul(exit_, bent[:, t], out=states[:, t])
        ctx.save_for_backward(from_state, opened, cells, bent, states)
        return states

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        from_state, opened, cells, bent, states = ctx.saved_tensors
        (told,) = given
        frames = cells.shape[1]
        entry, forget, candidate, exit_ = opened.chunk(4, dim=-1)
        before = torch.zeros_like(cells)
        before[:, 1:] = cells[:, :-1]
        # How each gate moves with the cell, and the exit gate and the cell with the state: for all frames at once.
        slopes = torch.cat(
            [
                candidate * entry * (1 - entry),
                before * forget * (1 - forget),
                entry * (1 - candidate * candidate),
                bent * exit_ * (1 - exit_),
            ],
            dim=-1,
        )
        to_cell = exit_ * (1 - bent * bent)
        moved = torch.empty_like(opened)
        cell: Tensor | None = None
        later: Tensor | None = None
        for t in range(frames - 1, -1, -1):
            state = told[:, t] if later is None else told[:, t] + later
            change = state * to_cell[:, t] if cell is None else torch.addcmul(cell, state, to_cell[:, t])
            now = moved[:, t]
            hidden = state.shape[-1]
            torch.mul(
                _parts(slopes[:, t, :, : 3 * hidden], 3),
                change[..., None, :],
                out=_parts(now[..., : 3 * hidden], 3),
            )
            torch.mul(slopes[:, t, :, 3 * hidden :], state, out=now[..., 3 * hidden :])
            if t:
                later = torch.bmm(now, from_state)
                cell = change * forget[:, t]
        return moved, _weight_gradient(moved, states)


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, driven: Tensor, from_state: Tensor, bias: Tensor) -> Tensor:
        trials, frames, clips, gates = driven.shape
        hidden = gates // 3
        back = from_state.transpose(1, 2)
        opened = torch.empty_like(driven)
        recalled = driven.new_empty(trials, frames, clips, hidden)
        states = torch.empty_like(recalled)
        for t in range(frames):
            if t == 0:
                held = bias[:, None].expand(-1, clips, -1)
            else:
                held = torch.baddbmm(bias[:, None], states[:, t - 1], back)
            now = opened[:, t]
            both = slice(0, 2 * hidden)
            torch.add(driven[:, t, :, both], held[..., both], out=now[..., both]).sigmoid_()
            reset, update, candidate = now.chunk(3, dim=-1)
            recalled[:, t] = held[..., 2 * hidden :]
            torch.addcmul(driven[:, t, :, 2 * hidden :], reset, recalled[:, t], out=candidate).tanh_()
            if t:
                torch.lerp(candidate, states[:, t - 1], update, out=states[:, t])
            else:
                torch.addcmul(candidate, update, candidate, value=-1, out=states[:, t])
        ctx.save_for_backward(from_state, opened, recalled, states)
        return states

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from_state, opened, recalled, states = ctx.saved_tensors
        (told,) = given
        frames, hidden = states.shape[1], states.shape[-1]
        reset, update, candidate = opened.chunk(3, dim=-1)
        before = torch.zeros_like(states)
        before[:, 1:] = states[:, :-1]
        to_candidate = (1 - update) * (1 - candidate * candidate)
        slopes = torch.cat(
            [
                to_candidate * recalled * reset * (1 - reset),
                (before - candidate) * update * (1 - update),
                to_candidate,
            ],
            dim=-1,
        )
        moved = torch.empty_like(opened)
        held = torch.empty_like(opened)
        later: Tensor | None = None
        for t in range(frames - 1, -1, -1):
            state = told[:, t] if later is None else told[:, t] + later
            now = moved[:, t]
            torch.mul(_parts(slopes[:, t], 3), state[..., None, :], out=_parts(now, 3))
            held[:, t] = now
            held[:, t, :, 2 * hidden :] *= reset[:, t]
            if t:
                later = torch.baddbmm(state * update[:, t], held[:, t], from_state)
        return moved, _weight_gradient(held, states), held.sum((1, 2))


def _parts(gates: Tensor, count: int) -> Tensor:
    """[..., count H] as [..., count, H]."""
    return gates.view(*gates.shape[:-1], count, -1)


def _weight_gradient(moved: Tensor, states: Tensor) -> Tensor:
    """Of the weights from the state: what each gate moved by at each frame, by the state before. [K, G, H]."""
    if moved.shape[1] == 1:
        return moved.new_zeros(moved.shape[0], moved.shape[-1], states.shape[-1])
    return torch.bmm(moved[:, 1:].flatten(1, 2).transpose(1, 2), states[:, :-1].flatten(1, 2))
