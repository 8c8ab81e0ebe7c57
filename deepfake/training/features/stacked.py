"""Heads of one shape to one head that computes them all: parameters stacked, batches folded one behind another.

A head's own code runs once, over the clips of all trials; only the modules that hold parameters or draw at random are
exchanged, each for its counterpart in :data:`FUSED`. A head with a module that has none cannot be stacked. Knows no
optimizer and no data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepfake.models.heads import Head, Output
from deepfake.models.heads.base import Classifier
from deepfake.models.heads.convlstm import ConvLstmHead, ConvLstmLayer
from deepfake.models.heads.mean import MeanHead
from deepfake.models.heads.recurrent import GruHead, LstmHead
from deepfake.models.heads.vit import VitHead
from deepfake.training.features.recurrence import gru, lstm

#: What trials of one shape may differ in: how much they drop.
_FREE = ("p", "dropout", "training")
_PLAIN = (bool, int, float, str, tuple)


class Draws:
    """The random states of trials that are trained together: each draws what it would draw alone.

    Args:
        device: Where they draw.
        trials: How many there are.
    """

    def __init__(self, device: torch.device, trials: int) -> None:
        self._device = device
        # A GPU's kernels take a state of their own kind, which is lent to its default generator.
        self._own = [torch.Generator() for _ in range(trials)] if device.type == "cpu" else []
        self._states: list[tuple[int, int]] = [(0, 0)] * trials
        # Each trial's rates, in the order in which its modules draw; and the first trial that draws the same.
        self._rates: list[list[float]] = [[] for _ in range(trials)]
        self._twins = list(range(trials))
        self._lends = False

    def begin(self, seeds: Sequence[int]) -> None:
        """Begin a step: what ``torch.manual_seed`` is for a trial alone."""
        for generator, seed in zip(self._own, seeds, strict=False):
            generator.manual_seed(seed)
        self._states = [(seed, 0) for seed in seeds]
        how = list(zip(seeds, map(tuple, self._rates), strict=False))
        self._twins = list(range(len(how))) if self._lends else [how.index(one) for one in how]

    def expect(self, rates: Sequence[float], *, lent: bool = False) -> None:
        """Hear of a module that draws at these rates, or to which states are :meth:`lent`."""
        self._lends = self._lends or (lent and any(rates))
        for known, rate in zip(self._rates, rates, strict=True):
            known.append(rate)

    @property
    def any(self) -> bool:
        """Whether anything is drawn."""
        return any(map(any, self._rates))

    def noise(self, x: Tensor, rates: Sequence[float]) -> Tensor:
        """What dropout multiplies ``x`` [K, ...] with: each trial's own draws at its own rate."""
        if not self._own:
            ones = torch.ones_like(x[0])
            return torch.stack([self._dropped(ones, k, rate) for k, rate in enumerate(rates)])
        noise = torch.empty_like(x)
        rows = noise.unbind()
        for k, (row, rate) in enumerate(zip(rows, rates, strict=True)):
            # Where nothing or everything is dropped, torch draws nothing.
            if not 0 < rate < 1:
                row.fill_(1 - rate)
            elif self._twins[k] < k:
                row.copy_(rows[self._twins[k]])
            else:
                row.bernoulli_(1 - rate, generator=self._own[k])
        kept = [1 - rate or 1.0 for rate in rates]
        return noise.div_(x.new_tensor(kept).view(-1, *[1] * (x.ndim - 1)))

    def _dropped(self, ones: Tensor, trial: int, rate: float) -> Tensor:
        with self.lent(trial):
            return F.dropout(ones, rate)

    @contextmanager
    def lent(self, trial: int) -> Iterator[None]:
        """While entered, torch's default generator is a trial's."""
        if self._own:
            own = self._own[trial]
            with torch.random.fork_rng([]):
                torch.set_rng_state(own.get_state())
                yield
                own.set_state(torch.get_rng_state())
            return
        seed, offset = self._states[trial]
        with torch.random.fork_rng([self._device], device_type=self._device.type):
            default: Any = torch.cuda.default_generators[self._device.index or 0]
            default.manual_seed(seed)
            default.set_offset(offset)
            yield
            self._states[trial] = seed, int(default.get_offset())


class Stack:
    """K heads of one shape, as one.

    Args:
        heads: Trained ones; their parameters are copied.
        order: The names of those parameters that are trained, in the order in which they lie in a row.

    Attributes:
        rows: [K, P]: each head's trained parameters one behind another.
        gradients: [K, P], as :meth:`backward` left them.
        draws: What is drawn at random.
        head: What computes them all: features [K B, T, ...] and mask [K B, T] to logits [K B].
    """

    def __init__(self, heads: Sequence[Head], order: Sequence[str]) -> None:
        self.trials = len(heads)
        named = [dict(head.named_parameters()) for head in heads]
        device = named[0][order[0]].device
        sizes = [named[0][name].numel() for name in order]
        self.rows = torch.empty(self.trials, sum(sizes), device=device)
        self.gradients = torch.zeros_like(self.rows)
        self._places: dict[str, tuple[int, int]] = {}
        self._leaves: dict[str, Tensor] = {}
        self._params = [[parameters[name] for name in order] for parameters in named]
        begin = 0
        for name, size in zip(order, sizes, strict=True):
            self._places[name] = begin, begin + size
            shape = named[0][name].shape
            leaf = self.rows[:, begin : begin + size].view(self.trials, *shape).detach()
            self._leaves[name] = leaf.requires_grad_()
            begin += size
        for row, parameters in zip(self.rows, self._params, strict=True):
            self.take(row, parameters)
        self.draws = Draws(device, self.trials)
        self.head: nn.Module = self._fused(heads, "")
        self.head.train()

    def __call__(self, features: Tensor, mask: Tensor) -> Output:
        """Features [K, B, T, ...] and mask [K, B, T] to logits [K, B] and, where the heads give them, of frames."""
        output: Output = self.head(features.flatten(0, 1), mask.flatten(0, 1))
        frames = None if output.frame_logits is None else output.frame_logits.view(mask.shape)
        return Output(output.logits.view(mask.shape[:2]), frames)

    def backward(self, loss: Tensor, add: bool = False) -> None:
        """Take the gradients of a loss that is a sum over trials, or add them to those that are there."""
        found = torch.autograd.grad(loss, list(self._leaves.values()))
        for place, gradient in zip(self._places.values(), found, strict=True):
            held = self.gradients[:, slice(*place)].view_as(gradient)
            held.add_(gradient) if add else held.copy_(gradient)

    def parameter(self, name: str) -> Tensor:
        """A parameter of all heads, [K, ...]."""
        return self._leaves[name]

    def take(self, row: Tensor, tensors: Sequence[Tensor]) -> None:
        """Copy tensors, one for each parameter, into a row [P]."""
        with torch.no_grad():
            for place, tensor in zip(self._places.values(), tensors, strict=True):
                row[slice(*place)].view_as(tensor).copy_(tensor)

    def write(self, trial: int) -> None:
        """Give a head its parameters."""
        self.give(self.rows[trial], self._params[trial])

    def give(self, row: Tensor, tensors: Sequence[Tensor]) -> None:
        """Copy a row [P] into tensors, one for each parameter."""
        with torch.no_grad():
            for place, tensor in zip(self._places.values(), tensors, strict=True):
                tensor.copy_(row[slice(*place)].view_as(tensor))

    def _fused(self, modules: Sequence[nn.Module], name: str) -> nn.Module:
        """One module for those that stand at one place of each head."""
        first = modules[0]
        if type(first) in FUSED:
            return FUSED[type(first)](self, name, modules)
        return self.inside(copy.copy(first), modules, name)

    def inside(self, fused: nn.Module, modules: Sequence[nn.Module], name: str) -> nn.Module:
        """A module whose children are those of several others as one."""
        children = [dict(module.named_children()) for module in modules]
        fused._modules = {key: self._fused([each[key] for each in children], _joined(name, key)) for key in children[0]}
        return fused


def shape_of(head: Head) -> tuple[Any, ...] | str:
    """What heads must have alike to be stacked, or why this one cannot be."""
    found = []
    for name, module in head.named_modules():
        kind = type(module)
        if kind not in FUSED and kind not in PLAIN:
            return f"{kind.__name__} has no counterpart for several trials at once"
        if kind in (nn.LSTM, nn.GRU) and not _simple(module):
            return f"{kind.__name__} of several layers or directions has no counterpart for several trials at once"
        held = {key: value for key, value in vars(module).items() if isinstance(value, _PLAIN) and key not in _FREE}
        shapes = [(key, tuple(tensor.shape), tensor.requires_grad) for key, tensor in module.named_parameters()]
        found.append((name, kind, str(sorted((key, str(value)) for key, value in held.items())), str(shapes)))
    return tuple(found)


def _simple(module: nn.Module) -> bool:
    assert isinstance(module, nn.LSTM | nn.GRU)
    return module.num_layers == 1 and not module.bidirectional and module.batch_first and not module.proj_size


def _joined(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


class _Fused(nn.Module):
    """Base of the counterparts: a module of K trials, over batches folded one behind another.

    Args:
        stack: Holds the parameters.
        name: Of the module in its head.
        modules: That of each trial.
    """

    def __init__(self, stack: Stack, name: str, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trials = stack.trials
        for key, _ in modules[0].named_parameters():
            setattr(self, key.replace(".", "_"), stack.parameter(_joined(name, key)))

    def apart(self, x: Tensor) -> Tensor:
        """[K B, ...] to [K, B, ...]."""
        return x.reshape(self.trials, -1, *x.shape[1:])


class _Linear(_Fused):
    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """[K B, ..., D] to [K B, ..., E]."""
        flat = x.reshape(self.trials, -1, x.shape[-1])
        return linear(flat, self.weight, self.bias).view(*x.shape[:-1], -1)


class _Classifier(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float()).squeeze(-1)


class _LayerNorm(_Fused):
    weight: Tensor
    bias: Tensor

    def __init__(self, stack: Stack, name: str, modules: Sequence[nn.Module]) -> None:
        super().__init__(stack, name, modules)
        self.shape, self.eps = modules[0].normalized_shape, float(modules[0].eps)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        plain = F.layer_norm(x, self.shape, eps=self.eps).view(self.trials, -1, x.shape[-1])  # type: ignore[arg-type]
        return torch.addcmul(self.bias[:, None], plain, self.weight[:, None]).view_as(x)


class _GroupNorm(_Fused):
    weight: Tensor
    bias: Tensor

    def __init__(self, stack: Stack, name: str, modules: Sequence[nn.Module]) -> None:
        super().__init__(stack, name, modules)
        self.groups, self.eps = int(modules[0].num_groups), float(modules[0].eps)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Maps [K N, C, h, w]."""
        plain = self.apart(F.group_norm(x, self.groups, eps=self.eps))
        shape = (self.trials, 1, -1, 1, 1)
        return torch.addcmul(self.bias.view(shape), plain, self.weight.view(shape)).flatten(0, 1)


class _Conv2d(_Fused):
    """Each trial's convolution alone: as one of many groups it is slower than that."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, stack: Stack, name: str, modules: Sequence[nn.Module]) -> None:
        super().__init__(stack, name, modules)
        first: Any = modules[0]
        self.how = (first.stride, first.padding, first.dilation, first.groups)
        if first.bias is None:
            self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """Maps [K N, C, h, w] to [K N, E, h, w]."""
        biases = [None] * self.trials if self.bias is None else self.bias.unbind()
        parts = zip(self.apart(x).unbind(), self.weight.unbind(), biases, strict=True)
        return torch.cat([F.conv2d(part, weight, bias, *self.how) for part, weight, bias in parts])


class _Dropout(_Fused):
    def __init__(self, stack: Stack, name: str, modules: Sequence[nn.Module]) -> None:
        super().__init__(stack, name, modules)
        self.draws, self.rates = stack.draws, [float(module.p) for module in modules]  # type: ignore[arg-type]
        stack.draws.expect(self.rates)

        #: Alone, what it reads lies in memory frames first, and so are its draws.
        self.frames_first = False

    def forward(self, x: Tensor) -> Tensor:
        if not any(self.rates):
            return x
        parts = self.apart(x)
        laid = parts.transpose(1, 2).contiguous() if self.frames_first else parts
        noise = self.draws.noise(laid, self.rates)
        return x * (noise.transpose(1, 2) if self.frames_first else noise).reshape(x.shape)


class _Attention(_Fused):
    """Of tokens on themselves, as :class:`torch.nn.TransformerEncoderLayer` asks for it."""

    in_proj_weight: Tensor
    in_proj_bias: Tensor
    out_proj_weight: Tensor
    out_proj_bias: Tensor
    batch_first = True

    def __init__(self, stack: Stack, name: str, modules: Sequence[nn.Module]) -> None:
        super().__init__(stack, name, modules)
        self.heads = int(modules[0].num_heads)  # type: ignore[arg-type]
        self.draws, self.rates = stack.draws, [float(module.dropout) for module in modules]  # type: ignore[arg-type]
        stack.draws.expect(self.rates, lent=True)

    def forward(
        self, x: Tensor, *_: Tensor, key_padding_mask: Tensor | None = None, **__: object
    ) -> tuple[Tensor, None]:
        """Tokens [K B, L, W], and what is added to the attention of each, [K B, L]."""
        flat = x.reshape(self.trials, -1, x.shape[-1])
        parts = linear(flat, self.in_proj_weight, self.in_proj_bias)
        # [3, K B, heads, L, W / heads]
        query, key, value = parts.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if key_padding_mask is None else key_padding_mask[:, None, None]
        seen = self._attend(query, key, value, mask).transpose(1, 2).reshape(flat.shape)
        return linear(seen, self.out_proj_weight, self.out_proj_bias).view_as(x), None

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if not any(self.rates):
            return F.scaled_dot_product_attention(query, key, value, mask)
        seen = []
        for trial, (rate, q, k, v) in enumerate(zip(self.rates, *map(self._each, (query, key, value)), strict=True)):
            with self.draws.lent(trial):
                part = None if mask is None else self.apart(mask)[trial].expand(-1, self.heads, q.shape[2], -1)
                seen.append(F.scaled_dot_product_attention(q, k, v, part, dropout_p=rate))
        return torch.cat(seen)

    def _each(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.apart(x).unbind()


class _Recurrent(_Fused):
    """One layer in one direction."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor
    run: Callable[..., Tensor]

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """[K B, T, D] to the states [K B, T, H]."""
        with torch.autocast(x.device.type, enabled=False):
            states = self.run(
                self.apart(x.float()), self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0
            )
        return states.flatten(0, 1), None


class _Lstm(_Recurrent):
    run = staticmethod(lstm)


class _Gru(_Recurrent):
    run = staticmethod(gru)


class _Vit(VitHead):
    """Its places are parameters of its own."""

    def __init__(self, stack: Stack, name: str, modules: Sequence[nn.Module]) -> None:
        nn.Module.__init__(self)
        first = modules[0]
        self.max_grid, self.changes = first.max_grid, first.changes  # type: ignore[assignment]
        self.trials = stack.trials
        stack.inside(self, modules, name)
        self.rows, self.columns = stack.parameter(_joined(name, "rows")), stack.parameter(_joined(name, "columns"))  # type: ignore[assignment]

    def place(self, height: int, width: int, clips: int) -> Tensor:
        places = self.rows[:, :height, None] + self.columns[:, None, :width]  # [K, h, w, W]
        return places.repeat_interleave(clips // self.trials, dim=0)[:, None]


def _encoder_layer(stack: Stack, name: str, modules: Sequence[nn.Module]) -> nn.Module:
    layer = stack.inside(copy.copy(modules[0]), modules, name)
    # What attention gives lies so.
    layer.dropout1.frames_first = True  # type: ignore[union-attr]
    return layer


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [K, N, D] by weights [K, E, D] and biases [K, E] to [K, N, E]."""
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


#: The counterpart of each module that holds parameters or draws at random. A new one is a class and a line here.
FUSED: dict[type[nn.Module], Callable[[Stack, str, Sequence[nn.Module]], nn.Module]] = {
    nn.Linear: _Linear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: _Linear,
    Classifier: _Classifier,
    nn.LayerNorm: _LayerNorm,
    nn.GroupNorm: _GroupNorm,
    nn.Conv2d: _Conv2d,
    nn.Dropout: _Dropout,
    nn.MultiheadAttention: _Attention,
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.LSTM: _Lstm,
    nn.GRU: _Gru,
    VitHead: _Vit,
}

#: Modules whose code does for several trials what it does for one, once those within are exchanged.
PLAIN: tuple[type[nn.Module], ...] = (
    MeanHead,
    LstmHead,
    GruHead,
    ConvLstmHead,
    ConvLstmLayer,
    nn.ModuleList,
    nn.TransformerEncoder,
)
