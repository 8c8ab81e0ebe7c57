"""Any timm model as a reader of frames, images to feature maps or vectors; and a small one of ours, ``tiny``.

Knows no clips and no heads. ``tiny`` is for 64-pixel crops: no weights to download, a minute to train. It has batch
normalisation, though that ties a batch's frames together: with group normalisation the same network needs several times
the steps on a small data set, because what all faces share drowns what sets fakes apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepfake.compat import prepare_torchvision
from deepfake.errors import UserError, nearest
from deepfake.models.options import BackboneOptions
from deepfake.models.tuning import hold_statistics, tune_part


class Backbone(nn.Module):
    """A timm model without its classifier.

    Args:
        model: Built with ``num_classes=0``.
        grid: The side of its token grid (h, w) for models that give tokens [N, L, D]; None for maps.
        fixed: The names in the model's state that training leaves as they came, where a part of it is trained.

    Attributes:
        features: Width D of :meth:`vectors`.
        map_features: Width D of :meth:`maps`; some models widen after pooling, so it may differ.
        mean, std: What its weights expect of RGB in 0..1, per channel.
    """

    def __init__(self, model: Any, grid: tuple[int, int] | None = None, fixed: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.model = model
        self.grid = grid
        self.fixed = frozenset(f"model.{name}" for name in fixed)
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

    def train(self, mode: bool = True) -> Backbone:
        """As for any module, but what is not trained keeps its batch statistics."""
        super().train(mode)
        if self.fixed:
            hold_statistics(self.model)
        return self


#: What :func:`made_for` says of a model that is not known; building it raises the error.
UNKNOWN_SIZE = 224


def made_for(name: str) -> int:
    """The side, in pixels, of the square images that a model's weights were made for, by timm's own configuration.

    Args:
        name: As timm knows it, with or without the tag of its weights; or ``tiny``.
    """
    prepare_torchvision()
    import timm

    ours = TinyNet.pretrained_cfg if name == tiny.__name__ else None
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
        UserError: timm has no such model, its weights cannot be had or do not fit, it cannot read ``size``, or has
            no such part to train.
    """
    prepare_torchvision()
    import timm

    register_tiny()
    if not timm.is_model(options.name.split(".")[0]):
        raise UserError(f"timm has no model {options.name!r}", _nearest_model(options.name, timm.list_models()))
    model = _weighted(timm.create_model, options, size, keep)
    if options.grad_checkpointing:
        _checkpoint_gradients(model, options.name)
    grid = _token_grid(model, size, options.name)
    return Backbone(model, grid, tune_part(model, options, size))


def cached_weights(name: str) -> Path | None:
    """The file that a model's pretrained weights lie in on this machine; None where they would be downloaded."""
    prepare_torchvision()
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    found = (
        try_to_load_from_cache(config.hf_hub_id, file)
        for file in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin")
        if file
    )
    return next((Path(file) for file in found if isinstance(file, str)), None)


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


#: How much the image minus its local mean is amplified: it is small where an image is smooth.
SHARPEN = 4.0


def register_tiny() -> None:
    """Make ``timm.create_model("tiny")`` known; calling it again changes nothing."""
    import timm

    if not timm.is_model("tiny"):
        register_model: Callable[[Callable[..., nn.Module]], object] = timm.models.register_model
        register_model(tiny)


def tiny(pretrained: bool = False, **kwargs: object) -> nn.Module:
    """The network, built by name through timm; 0.12 M parameters.

    Args:
        pretrained: Must be False; there are no weights to be had.
        **kwargs: What timm passes on: ``drop_rate`` is used, the rest (cache folders and the like) is not.

    Raises:
        RuntimeError: ``pretrained`` is True, as timm raises for its own models without weights.
    """
    if pretrained:
        raise RuntimeError("No pretrained weights exist for tiny")
    drop_rate = kwargs.get("drop_rate", 0.0)
    return TinyNet(drop_rate=float(drop_rate) if isinstance(drop_rate, (int, float)) else 0.0)


class TinyNet(nn.Module):
    """Three halvings and two residual blocks; features are the mean and the maximum over place.

    Beside the colours it reads what a 3x3 mean takes away, where blending and compression leave their marks.
    The maximum keeps what the mean dilutes: a patch of a few pixels that changes from frame to frame. Maps hold both
    over 2x2 places, so that heads which read maps have a quarter of the places to go through.

    Args:
        drop_rate: Dropout on the pooled features.
    """

    #: The parts of timm's pretrained configuration that are read from every backbone.
    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "input_size": (3, 64, 64)}  # noqa: RUF012

    def __init__(self, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.stem = _conv(6, 16, stride=2)
        self.stages = nn.Sequential(_conv(16, 32, stride=2), _Residual(32), _conv(32, 64, stride=2), _Residual(64))
        self.num_features = self.head_hidden_size = 128
        self.drop = nn.Dropout(drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to maps [N, 128, H/16, W/16]."""
        detail = SHARPEN * (x - F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False))
        fine = self.stages(self.stem(torch.cat([x, detail], dim=1)))  # [N, 64, H/8, W/8]
        # Rounded up: the last row and column of an odd side count like the others.
        means, peaks = F.avg_pool2d(fine, 2, ceil_mode=True), F.max_pool2d(fine, 2, ceil_mode=True)
        return torch.cat([means, peaks], dim=1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps [N, 128, h, w] to vectors [N, 128]; there is no classifier, whatever ``pre_logits`` says."""
        means, peaks = x.chunk(2, dim=1)
        pooled = torch.cat([means.mean(dim=(2, 3)), peaks.amax(dim=(2, 3))], dim=1)
        dropped: Tensor = self.drop(pooled)
        return dropped

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to vectors [N, 128]."""
        return self.forward_head(self.forward_features(x))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv(width, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        # The last norm's weight is 0 at first, so that each block begins as the identity (Goyal et al. 2017).
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(self.conv1(x))), inplace=True)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
