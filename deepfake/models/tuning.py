"""Which part of a pretrained backbone is trained: all of it, norms, biases, its last blocks, or low-rank additions.

Knows timm's models by what they say of themselves (layer groups, positions), and no head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepfake.errors import UserError
from deepfake.models.options import BackboneOptions

#: How the names of an :class:`AdaptedLinear`'s own parameters end.
ADDED = (".lora_a", ".lora_b")
#: timm's normalisations that are no subclass of torch's.
_TIMMS_NORMS = (
    "EvoNorm2dB0",
    "EvoNorm2dS0",
    "FilterResponseNormAct2d",
    "FilterResponseNormTlu2d",
    "RmsNorm",
    "RmsNorm2d",
    "RmsNorm2dFp32",
    "RmsNormFp32",
    "SimpleNorm",
    "SimpleNorm2d",
    "SimpleNorm2dFp32",
    "SimpleNormFp32",
)


class AdaptedLinear(nn.Linear):
    """A linear layer plus a product of two thin matrices, which alone is trained: LoRA (Hu et al. 2022,
    arXiv:2106.09685), ``y = x W' + alpha / rank * x A' B'``.

    It begins as the layer that it takes the place of, since B is 0, and its other tensors keep their names.

    Args:
        layer: The layer, whose weight and bias it shares.
        rank: Of the product.
        alpha: The product counts ``alpha / rank``, so that a rate suits every rank.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)


def tune_part(model: Any, options: BackboneOptions, size: int) -> frozenset[str]:
    """Let a part of a model be trained, and keep the rest as it came.

    Args:
        model: A timm model without a classifier.
        options: ``tune`` and what belongs to it.
        size: Side of the square images that it reads.

    Returns:
        The names in its state that training leaves as they came with the backbone; none where all of it is trained.

    Raises:
        UserError: It has no such part.
    """
    tuned = _TUNED[options.tune]
    if tuned is None:
        return frozenset()
    came = set(model.state_dict())
    wanted = tuned(model, options, size)
    if not wanted:
        raise UserError(
            f"backbone.tune={options.tune} finds nothing to train in {options.name!r}",
            "choose another part with backbone.tune, or all",
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
    # Positions are fitted to the size of images when they are read, and their last bits may differ between machines.
    sized = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    return frozenset(came - wanted - set(sized) - _moving_statistics(model))


def hold_statistics(model: nn.Module) -> None:
    """Put batch normalisation whose weight is not trained into evaluation mode: it goes on as it came.

    Where the weight is trained the statistics follow the training clips, for they belong together.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not _is_trained(module):
            module.eval()


def layers_of(model: Any, what: str, *, coarse: bool) -> list[list[str]]:
    """A model's parameters as timm groups them, from the input to the output.

    Args:
        model: A timm model.
        what: What needs them, for the error.
        coarse: By stages, where the model has both stages and blocks.

    Returns:
        The names of each layer's parameters. Norms behind the last block belong to it.

    Raises:
        UserError: It names no layers.
    """
    from timm.models import group_parameters

    if not hasattr(model, "group_matcher"):
        name = getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__
        raise UserError(f"{what} on a backbone that names no layers ({name})", "take one of timm's models, or leave it")
    parameters = dict(model.named_parameters())
    groups: list[list[str]] = list(group_parameters(model, model.group_matcher(coarse=coarse)).values())
    while len(groups) > 1 and all(parameters[name].ndim <= 1 for name in groups[-1]):
        behind = groups.pop()
        groups[-1] += behind
    return groups


def _norms(model: Any, options: BackboneOptions, size: int) -> set[str]:
    """Scales and shifts of normalisation (Frankle et al. 2021, arXiv:2003.00152)."""
    import timm.layers

    torchs = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    kinds = (*torchs, *(getattr(timm.layers, name) for name in _TIMMS_NORMS if hasattr(timm.layers, name)))
    norms = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    return {f"{name}.{own}" for name, module in norms.items() for own, _ in module.named_parameters(recurse=False)}


def _biases(model: Any, options: BackboneOptions, size: int) -> set[str]:
    """Everything that is added: BitFit (Ben Zaken et al. 2022, arXiv:2106.10199)."""
    return {name for name, _ in model.named_parameters() if name.endswith("bias")}


def _last_blocks(model: Any, options: BackboneOptions, size: int) -> set[str]:
    """The last blocks of a transformer, or stages of a convolutional network."""
    layers = layers_of(model, "backbone.tune=last_n", coarse=True)
    if options.last_n > len(layers):
        raise UserError(
            f"backbone.last_n={options.last_n}, and {options.name!r} has {len(layers)} blocks or stages",
            f"set backbone.last_n to {len(layers)} or less, or backbone.tune=all",
        )
    return {name for layer in layers[-options.last_n :] for name in layer}


def _low_rank(model: Any, options: BackboneOptions, size: int) -> set[str]:
    """Low-rank additions to the linear layers of attention and of the layers between.

    Only layers that reading an image calls get one: some models hand a layer's weight to a function of their own,
    past the layer, and an addition there would do nothing.
    """
    for name in _called_linear(model, size):
        adapted = AdaptedLinear(model.get_submodule(name), options.lora_rank, options.lora_alpha)
        model.set_submodule(name, adapted)
    found = {name for name, _ in model.named_parameters() if name.endswith(ADDED)}
    if not found:
        raise UserError(
            f"backbone.tune=lora on {options.name!r}, which has no linear layers",
            "take a transformer such as backbone=vit_small, or tune norms, bias or last_n",
        )
    return found


def _called_linear(model: Any, size: int) -> list[str]:
    called: set[nn.Module] = set()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    hooks = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in linear.values()]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        model.forward_head(model.forward_features(torch.zeros(1, 3, size, size)), pre_logits=True)
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return [name for name, module in linear.items() if module in called]


#: What each ``backbone.tune`` trains, by name; None trains all. A new one is a function and a line here.
_TUNED: dict[str, Callable[[Any, BackboneOptions, int], set[str]] | None] = {
    "all": None,
    "norms": _norms,
    "bias": _biases,
    "last_n": _last_blocks,
    "lora": _low_rank,
}


def _is_trained(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    return norm.weight is not None and norm.weight.requires_grad


def _moving_statistics(model: nn.Module) -> set[str]:
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and _is_trained(module)
    }
    return {f"{name}.{own}" for name, module in norms.items() for own, _ in module.named_buffers(recurse=False)}
