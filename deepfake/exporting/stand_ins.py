"""Modules that compute what those of a detector do, of operations that PyTorch's ONNX exporter takes with any number
of clips and frames. They share the weights of what they stand in for; all else of a detector is exported as it is.

Knows heads, no files."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepfake.models.detector import Detector
from deepfake.models.heads.base import beside_changes
from deepfake.models.heads.convlstm import ConvLstmLayer


def exportable(detector: Detector) -> Detector:
    """A copy of a detector, in evaluation mode, every part of which can be exported."""
    made = copy.deepcopy(detector).eval().requires_grad_(False)
    made.chunk = None
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if (stand_in := _STAND_INS.get(type(child))) is not None:
                setattr(module, name, stand_in(child))
    return made


class _Recurrent(nn.Module):
    """One layer of LSTM or GRU cells in one direction: one node of the graph, however many frames come."""

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.layer = layer
        self.run = torch.ops.deepfake.lstm if isinstance(layer, nn.LSTM) else torch.ops.deepfake.gru

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        layer = self.layer
        return self.run(x, layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0), None


def _outputs(x: Tensor, hidden_weights: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], hidden_weights.shape[1])


@torch.library.custom_op("deepfake::gru", mutates_args=())
def _gru(x: Tensor, inputs: Tensor, hidden: Tensor, input_bias: Tensor, hidden_bias: Tensor) -> Tensor:
    start = x.new_zeros(1, x.shape[0], hidden.shape[1])
    weights = [inputs, hidden, input_bias, hidden_bias]
    return torch.gru(x, start, weights, True, 1, 0.0, False, False, True)[0].clone()


@torch.library.custom_op("deepfake::lstm", mutates_args=())
def _lstm(x: Tensor, inputs: Tensor, hidden: Tensor, input_bias: Tensor, hidden_bias: Tensor) -> Tensor:
    start = x.new_zeros(1, x.shape[0], hidden.shape[1])
    weights = [inputs, hidden, input_bias, hidden_bias]
    return torch.lstm(x, [start, start], weights, True, 1, 0.0, False, False, True)[0].clone()


@_gru.register_fake
@_lstm.register_fake
def _(x: Tensor, inputs: Tensor, hidden: Tensor, input_bias: Tensor, hidden_bias: Tensor) -> Tensor:
    return _outputs(x, hidden)


class _Encoder(nn.Module):
    """A transformer encoder that normalises first, in evaluation mode."""

    def __init__(self, encoder: nn.TransformerEncoder) -> None:
        super().__init__()
        self.layers = encoder.layers

    def forward(self, x: Tensor, src_key_padding_mask: Tensor) -> Tensor:
        seen = ~src_key_padding_mask[:, None, None, :]  # [B, 1, 1, N]
        for layer in self.layers:
            attention: Any = layer.self_attn
            read = F.linear(layer.norm1(x), attention.in_proj_weight, attention.in_proj_bias)
            parts = read.reshape(*x.shape[:2], 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4)
            told = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=seen)  # [B, heads, N, W]
            x = x + attention.out_proj(told.transpose(1, 2).flatten(2))
            x = x + layer.linear2(layer.activation(layer.linear1(layer.norm2(x))))
        return x


class _ConvLstmLayer(nn.Module):
    """A convolutional LSTM layer whose loop over time stays a loop in the graph."""

    def __init__(self, layer: ConvLstmLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        from torch._higher_order_ops.scan import scan

        layer, sizes = self.layer, (x.shape[0], x.shape[1])
        x = layer.norm(x.flatten(0, 1)).unflatten(0, sizes)
        x = beside_changes(x, mask) if layer.changes else x
        driven = layer.from_input(x.flatten(0, 1)).unflatten(0, sizes)
        state = driven.new_zeros(x.shape[0], layer.hidden, *x.shape[-2:])

        def step(held: tuple[Tensor, Tensor], at: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], Tensor]:
            entry, forget, exit_, candidate = (at[0] + layer.from_state(held[0])).chunk(4, dim=1)
            real = at[1][:, None, None, None]
            new_cell = forget.sigmoid() * held[1] + entry.sigmoid() * candidate.tanh()
            new_state = exit_.sigmoid() * new_cell.tanh()
            seen = torch.where(real, new_state, held[0])
            return (seen, torch.where(real, new_cell, held[1])), seen.clone()

        over_time = driven.transpose(0, 1).contiguous(), mask.transpose(0, 1).contiguous()
        _, states = scan(step, (state, state.clone()), over_time)
        return states.transpose(0, 1)


_STAND_INS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LSTM: _Recurrent,
    nn.GRU: _Recurrent,
    nn.TransformerEncoder: _Encoder,
    ConvLstmLayer: _ConvLstmLayer,
}
