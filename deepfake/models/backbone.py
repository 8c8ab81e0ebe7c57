"""Any timm model as a reader of frames: images to feature maps or vectors. Knows no clips and no heads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepfake.compat import prepare_torchvision
from deepfake.errors import UserError, nearest
from deepfake.models import tiny
from deepfake.models.options import BackboneOptions


class Backbone(nn.Module):
    """A timm model without its classifier.

    Args:
        model: Built with ``num_classes=0``.
        grid: The side of its token grid (h, w) for models that give tokens [N, L, D]; None for maps.

    Attributes:
        features: Width D of :meth:`vectors`.
        map_features: Width D of :meth:`maps`; some models widen after pooling, so it may differ.
        mean, std: What its weights expect of RGB in 0..1, per channel.
    """

    def __init__(self, model: Any, grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.model = model
        self.grid = grid
        self.map_features = int(model.num_features)
        self.features = int(getattr(model, "head_hidden_size", None) or model.num_features)
        self.mean: tuple[float, ...] = tuple(model.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(model.pretrained_cfg["std"])

    def width(self, reads: str) -> int:
        """The D of ``vectors`` or ``maps``."""
        return {"vectors": self.features, "maps": self.map_features}[reads]

    def vectors(self, x: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] to vectors [N, D], pooled as the model itself pools."""
        pooled: Tensor = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
        return pooled

    def maps(self, x: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] to feature maps [N, D, h, w]; tokens are laid out on their grid."""
        features: Tensor = self.model.forward_features(x)
        if features.ndim == 3:  # [N, prefix + h * w, D]
            assert self.grid is not None
            patches = features[:, features.shape[1] - self.grid[0] * self.grid[1] :]
            return patches.transpose(1, 2).reshape(len(features), -1, *self.grid)
        if str(getattr(self.model, "output_fmt", "NCHW")) == "NHWC":
            return features.permute(0, 3, 1, 2)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Same as :meth:`vectors`."""
        return self.vectors(x)


#: What :func:`made_for` says of a model that is not known; building it raises the error.
UNKNOWN_SIZE = 224


def made_for(name: str) -> int:
    """The side, in pixels, of the square images that a model's weights were made for, by timm's own configuration.

    Args:
        name: As timm knows it, with or without the tag of its weights; or ``tiny``.
    """
    prepare_torchvision()
    import timm

    ours = tiny.TinyNet.pretrained_cfg if name == tiny.tiny.__name__ else None
    try:
        config = ours or timm.get_pretrained_cfg(name).to_dict()
        return int(config["input_size"][1])
    except (AttributeError, RuntimeError):
        return UNKNOWN_SIZE


#: Gives what was made under a key before, or makes it: how a process that builds many detectors reads weights once.
Keep = Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]


def create_backbone(options: BackboneOptions, size: int, keep: Keep | None = None) -> Backbone:
    """Build a timm model (or ``tiny``) by name, with its weights.

    Args:
        options: Name, weights, drop rates, gradient checkpointing.
        size: Side of the square images it will read, in pixels; transformers size their grid by it.
        keep: Keeps weights read from disk for the next detector; None reads them each time.

    Raises:
        UserError: timm has no such model, its weights cannot be had or do not fit, or it cannot read ``size``.
    """
    prepare_torchvision()
    import timm

    tiny.register()
    if not timm.is_model(options.name.split(".")[0]):
        raise UserError(f"timm has no model {options.name!r}", _nearest_model(options.name, timm.list_models()))
    model = _weighted(timm.create_model, options, size, keep)
    if options.grad_checkpointing:
        _checkpoint_gradients(model, options.name)
    grid = _token_grid(model, size, options.name)
    return Backbone(model, grid)


def _weighted(create: Callable[..., Any], options: BackboneOptions, size: int, keep: Keep | None) -> Any:
    """A timm model with its weights, read or kept."""
    made: list[Any] = []

    def read() -> dict[str, Tensor]:
        model = _build(create, options, size)
        if options.weights is not None:
            _load_weights(model, Path(options.weights), options.name)
        made.append(model)
        # Training changes the model's own tensors.
        return {} if keep is None else {name: tensor.clone() for name, tensor in model.state_dict().items()}

    if keep is None or not (options.pretrained or options.weights):
        read()
        return made[0]
    stamp = Path(options.weights).stat().st_mtime_ns if options.weights and Path(options.weights).exists() else 0
    weights = keep(f"{options.name} {size} {options.weights} {stamp}", read)
    if not made:
        # Built as it was the first time, random weights included, so that what is drawn afterwards is the same.
        made.append(_build(create, replace(options, pretrained=False, weights=None), size))
        made[0].load_state_dict(weights)
    return made[0]


def _build(create: Callable[..., Any], options: BackboneOptions, size: int) -> Any:
    pretrained = options.pretrained and options.weights is None
    kwargs: dict[str, Any] = {"drop_rate": options.drop_rate, "drop_path_rate": options.drop_path_rate}
    # Not every timm model takes every argument; those it does not know are left out unless the user set them.
    for chosen in ({**kwargs, "img_size": size}, kwargs, {k: v for k, v in kwargs.items() if v}):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return create(options.name, pretrained=pretrained, num_classes=0, **chosen)
        except TypeError as error:
            refusal = error
        except (OSError, RuntimeError, ValueError) as error:
            raise _cannot_build(options, size, pretrained, error) from error
    raise UserError(
        f"timm cannot build {options.name!r}: {refusal}", "set backbone.drop_rate=0 backbone.drop_path_rate=0"
    )


def _cannot_build(options: BackboneOptions, size: int, pretrained: bool, error: Exception) -> UserError:
    if pretrained:
        return UserError(
            f"pretrained weights of {options.name!r} cannot be had: {error}",
            "start from random weights with backbone.pretrained=false, give a local file with backbone.weights=PATH, "
            "or set HF_HOME to a Hugging Face cache that holds them",
        )
    return UserError(f"timm cannot build {options.name!r} for {size}-pixel images: {error}", "try dataset.size=224")


def _nearest_model(name: str, known: list[str]) -> str:
    """The closest name and a few of its kin; timm has over a thousand, too many to list."""
    import difflib

    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    return nearest(name, close) if close else "list them with python -c 'import timm; print(timm.list_models())'"


def _load_weights(model: nn.Module, path: Path, name: str) -> None:
    if not path.is_file():
        raise UserError(f"backbone.weights={str(path)!r} is not a file", "give a .safetensors or .pth file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            weights = loaded.get("state_dict", loaded)
    except Exception as error:
        raise UserError(
            f"backbone.weights={str(path)!r} cannot be read as plain weights: {error}",
            "save a state_dict with safetensors or torch.save; files that run code on loading are refused",
        ) from error
    # The classifier that came with the weights has no place here; all else must fit.
    missing, unexpected = [], list(weights)
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"{str(path)!r} does not fit {name!r}: {error}", "set backbone.name to their model") from error
    if missing:
        raise UserError(
            f"{str(path)!r} lacks {len(missing)} tensors of {name!r}, such as {missing[0]!r} "
            f"(it has {len(unexpected)} unknown ones)",
            "set backbone.name to the model these weights were saved from",
        )


def _checkpoint_gradients(model: Any, name: str) -> None:
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise UserError(f"{name!r} has no gradient checkpointing", "set backbone.grad_checkpointing=false") from error


def _token_grid(model: Any, size: int, name: str) -> tuple[int, int] | None:
    embed = getattr(model, "patch_embed", None)
    grid = getattr(embed, "grid_size", None)
    if grid is None:
        return None
    if tuple(getattr(embed, "img_size", None) or (size, size)) != (size, size):
        expected = model.patch_embed.img_size[0]
        raise UserError(f"{name!r} reads {expected}-pixel images, not {size}", f"set dataset.size={expected}")
    return int(grid[0]), int(grid[1])
