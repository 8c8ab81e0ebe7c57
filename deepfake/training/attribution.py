"""Where in its frames lies what moves a clip's logit, on which of them a detector relies, whether that means anything.

A map is activation times gradient, summed over channels, at the last layer that still has places (HiResCAM, Draelos and
Carin 2020, arXiv:2011.08891), by captum; the gradient goes through whatever head reads the frames. Where it fails there
is no map, and a sentence that says why. Knows clips and a detector, no files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from deepfake.data.media import Pixels
from deepfake.models.detector import Detector
from deepfake.training.saliency import Attribution, MapCheck, Maps
from deepfake.training.scoring import full_precision
from deepfake.training.views import WHOLE, View

#: Elements of features that are classified at once when frames are left out.
_AT_ONCE = 1 << 26
#: A map that is at least this similar to those of models with random weights shows the picture, not the model.
SIMILAR = 0.5
#: The parts of a detector whose weights are drawn anew, from its top down, each with all before it.
CASCADE = ("head", "a third of the backbone", "two thirds of the backbone", "everything")
_SEEDS = (0, 1)
_LEAST = 9  # places of a map; fewer show nothing of where


class Attributing:
    """A detector that is asked about clips as arrays; see :class:`deepfake.reading.along.Looker`.

    Args:
        detector: Reads pixels, in evaluation mode; its weights stay as they are.
        views: As in scoring.
        device: Where the detector is.
        frames: Whether to find out on which frames it relies, too.
    """

    def __init__(self, detector: Detector, views: Sequence[View], device: torch.device, *, frames: bool = True) -> None:
        self._detector = detector
        self._views = views
        self._device = device
        self._frames = frames

    def look(self, clip: Pixels, mask: NDArray[np.bool_]) -> Attribution:
        """See :func:`attribute`; of a clip uint8 [T, S, S, 3] and a mask bool [T]."""
        return attribute(self._detector, *self._tensors(clip, mask), self._views, frames=self._frames)

    def check(self, clip: Pixels, mask: NDArray[np.bool_], own: Attribution) -> MapCheck:
        """See :func:`check_maps`."""
        return check_maps(self._detector, *self._tensors(clip, mask), own, self._views)

    def _tensors(self, clip: Pixels, mask: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        frames = torch.from_numpy(np.array(clip)).permute(0, 3, 1, 2)[None]
        return frames.to(self._device), torch.from_numpy(mask)[None].to(self._device)


def attribute(
    detector: Detector, clip: Tensor, mask: Tensor, views: Sequence[View] = (WHOLE,), *, frames: bool = True
) -> Attribution:
    """Look at one clip.

    Args:
        detector: Reads pixels, in evaluation mode; its weights stay as they are.
        clip: uint8 [1, T, C, H, W] on the detector's device.
        mask: bool [1, T].
        views: The looks, as in scoring.
        frames: Whether to find out on which frames it relies, too.
    """
    # cuDNN's recurrent layers give gradients in training mode only.
    with full_precision(), torch.backends.cudnn.flags(enabled=False):
        looks = [_look(detector, view, clip, mask) for view in views]
        logits = torch.stack([look.logits for look in looks]).mean(0)
        per_frame = [look.frame_logits for look in looks if look.frame_logits is not None]
        maps, why = _joined(looks, views, mask)
        reliance = _reliance(detector, looks, mask, float(logits)) if frames else None
        attention = _attention(detector, looks, mask) if frames else None
    return Attribution(
        float(logits),
        torch.stack(per_frame).mean(0)[0].double().cpu().numpy() if per_frame else None,
        maps,
        why,
        reliance,
        attention,
    )


@dataclass
class _Look:
    """What one view gives: features as the head reads them, logits [1] and [1, T], contributions [T, h, w]."""

    features: Tensor
    logits: Tensor
    frame_logits: Tensor | None
    contributions: Tensor | None
    why: str = ""


def _look(detector: Detector, view: View, clip: Tensor, mask: Tensor) -> _Look:
    frames = view.of(clip, detector.size).flatten(0, 1)
    with torch.no_grad():
        split = _split(detector, frames)
        features = split.features(split.inputs)[None]
        output = detector.classify(features, mask)
    contributions, why = _contributions(detector, split, mask)
    return _Look(features, output.logits, output.frame_logits, contributions, why)


@dataclass
class _Split:
    """A detector cut in two where frames still have places.

    Attributes:
        inputs: What the second part reads, [T, ...].
        features: The second part, up to what the head reads: [T, D] or [T, D, h, w].
        placed: Numbers as the inputs' to maps [T, h, w], summed over channels; None for tokens that lie on no grid.
    """

    inputs: Tensor
    features: Callable[[Tensor], Tensor]
    placed: Callable[[Tensor], Tensor] | None


def _split(detector: Detector, frames: Tensor) -> _Split:
    backbone = detector.backbone
    chunks = [frames] if detector.chunk is None else list(torch.split(frames, detector.chunk))
    normed = [detector.normalised(chunk) for chunk in chunks]
    if detector.reads == "maps":
        return _Split(torch.cat([backbone.maps(x) for x in normed]), lambda maps: maps, lambda maps: maps.sum(1))
    blocks = getattr(backbone.model, "blocks", None)
    if backbone.grid is not None and blocks is not None and len(blocks):
        return _split_tokens(backbone, blocks[-1], normed)
    raw = torch.cat([backbone.model.forward_features(x) for x in normed])
    last = str(getattr(backbone.model, "output_fmt", "NCHW")) == "NHWC"
    placed: Callable[[Tensor], Tensor] | None = (lambda x: x.sum(-1)) if last else (lambda x: x.sum(1))
    return _Split(raw, lambda x: backbone.model.forward_head(x, pre_logits=True), placed if raw.ndim == 4 else None)


def _split_tokens(backbone: Any, last: nn.Module, normed: Sequence[Tensor]) -> _Split:
    """Before the last block: behind it a class token has read all others, which nothing reads any more."""
    held: list[Tensor] = []
    with _before(last, held.append):
        for x in normed:
            backbone.vectors(x)
    sizes = [len(x) for x in normed]

    def features(tokens: Tensor) -> Tensor:
        found = []
        for x, part in zip(normed, torch.split(tokens, sizes), strict=True):
            with _before(last, partial(_given, part)):
                found.append(backbone.vectors(x))
        return torch.cat(found)

    height, width = backbone.grid
    return _Split(torch.cat(held), features, lambda x: x[:, -height * width :].sum(2).reshape(-1, height, width))


def _given(wanted: Tensor, _: Tensor) -> Tensor:
    return wanted


@contextmanager
def _before(module: nn.Module, do: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """See a module's first argument while this lasts, or give it another."""

    def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = do(arguments[0])
        return None if given is None else ((given, *arguments[1:]), named)

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _contributions(detector: Detector, split: _Split, mask: Tensor) -> tuple[Tensor | None, str]:
    """What each place adds to the logit [T, h, w], or why that cannot be told."""
    if split.placed is None:
        return None, f"{type(detector.backbone.model).__name__} has no layer whose places are known"
    from captum.attr import InputXGradient

    def rest(inputs: Tensor, real: Tensor) -> Tensor:
        return detector.classify(split.features(inputs)[None], real).logits

    inputs = split.inputs.detach()
    try:
        with torch.enable_grad():
            found = InputXGradient(rest).attribute(inputs.requires_grad_(), additional_forward_args=(mask,))
    except RuntimeError as error:
        return None, f"its gradient could not be computed: {str(error).splitlines()[0]}"
    placed = split.placed(found.detach().float())
    placed = placed.masked_fill(~mask[0, :, None, None], 0.0)
    if not torch.isfinite(placed).all():
        return None, "its gradient is not finite"
    if not placed.abs().sum() > 0:
        return None, "its gradient is 0 everywhere"
    return placed, ""


def _joined(looks: Sequence[_Look], views: Sequence[View], mask: Tensor) -> tuple[Maps | None, str]:
    """The maps of several views as one, each in its part of the picture."""
    why = next((look.why for look in looks if look.contributions is None), "")
    found = [look.contributions for look in looks if look.contributions is not None]
    if why or not found:
        return None, why
    if len(found) == 1 and views[0] == WHOLE:
        return np.asarray(found[0].cpu().numpy(), np.float32), ""
    side = 4 * max(max(one.shape[-2:]) for one in found)
    canvas = torch.zeros(mask.shape[1], side, side)
    for one, view in zip(found, views, strict=True):
        shown = one.cpu().flip(-1) if view.mirrored else one.cpu()
        part = max(2, round(view.scale * side))
        top, left = round((side - part) * view.down), round((side - part) * view.across)
        # Places are shared out over more of them: their sum stays the view's.
        share = one.shape[-2] * one.shape[-1] / part**2 / len(views)
        drawn = F.interpolate(shown[:, None], (part, part), mode="bilinear", align_corners=False)[:, 0]
        canvas[:, top : top + part, left : left + part] += drawn * share
    return np.asarray(canvas.numpy(), np.float32), ""


@torch.no_grad()
def _reliance(detector: Detector, looks: Sequence[_Look], mask: Tensor, logit: float) -> NDArray[np.float64] | None:
    real = torch.nonzero(mask[0])[:, 0]
    if len(real) < 2:
        return None
    without = mask.repeat(len(real), 1)
    without[torch.arange(len(real)), real] = False
    total = torch.zeros(len(real), dtype=torch.float64)
    for look in looks:
        size = max(1, _AT_ONCE // look.features[0].numel())
        for start in range(0, len(real), size):
            part = without[start : start + size]
            output = detector.classify(look.features.expand(len(part), *look.features.shape[1:]), part)
            total[start : start + size] += output.logits.double().cpu()
    found = np.full(mask.shape[1], np.nan)
    found[real.cpu().numpy()] = logit - (total / len(looks)).numpy()
    return found


@torch.no_grad()
def _attention(detector: Detector, looks: Sequence[_Look], mask: Tensor) -> NDArray[np.float64] | None:
    """How a head's attention is spread over frames: the mean of its layers, heads and queries."""
    layers = [module for module in detector.head.modules() if isinstance(module, nn.MultiheadAttention)]
    if not layers:
        return None
    frames, weights = mask.shape[1], []

    def ask(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return arguments, {**named, "need_weights": True, "average_attn_weights": True}

    def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        weights.append(output[1][0].mean(0))  # [L], over queries

    handles = [layer.register_forward_pre_hook(ask, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(keep) for layer in layers]
    try:
        for look in looks:
            detector.classify(look.features, mask)
    finally:
        for handle in handles:
            handle.remove()
    if not weights or weights[0].shape[-1] % frames:
        return None
    by_frame = torch.stack(weights).double().mean(0).reshape(frames, -1).sum(1)
    return np.asarray(by_frame.cpu().numpy())


def check_maps(
    detector: Detector, clip: Tensor, mask: Tensor, own: Attribution, views: Sequence[View] = (WHOLE,)
) -> MapCheck:
    """Whether a clip's maps show what the detector has learned, or only what is in the picture.

    Args:
        detector: Whose maps.
        clip: uint8 [1, T, C, H, W].
        mask: bool [1, T].
        own: What :func:`attribute` gave for this clip.
        views: As there.
    """
    if own.maps is None:
        return MapCheck(False, own.why)
    if own.maps[0].size < _LEAST:
        return MapCheck(False, f"it has {own.maps.shape[1]}x{own.maps.shape[2]} places only")
    similarity: dict[str, float] = {}
    for level, name in enumerate(CASCADE):
        found = []
        for seed in _SEEDS:
            other = attribute(randomised(detector, level, seed), clip, mask, views, frames=False)
            found.append(0.0 if other.maps is None else rank_similarity(own.maps, other.maps))
        similarity[name] = float(np.mean(found))
    last = similarity[CASCADE[-1]]
    if last >= SIMILAR:
        said = f"it is {last:.2f} similar to those of the same network with random weights: it shows the picture"
        return MapCheck(False, f"{said}, not what was learned", similarity)
    return MapCheck(True, f"with random weights it is another one: similarity {last:.2f}", similarity)


def rank_similarity(one: Maps, other: Maps) -> float:
    """Spearman's rank correlation of two maps' absolute values; 0 where one is level.

    Example:
        >>> rank_similarity(np.array([[[1.0, -2.0, 3.0]]]), np.array([[[-1.0, 2.0, 30.0]]]))
        1.0
    """
    ranks = [rankdata(np.abs(maps), axis=None) for maps in (one, other)]
    centred = [r - r.mean() for r in ranks]
    scale = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return round(float((centred[0] * centred[1]).sum()) / scale, 12) if scale > 0 else 0.0


def randomised(detector: Detector, level: int, seed: int) -> Detector:
    """A copy whose upper part, as :data:`CASCADE` names it, has its own weights in an order that was drawn.

    Weights stay as large as they were, so that nothing vanishes or overflows; batch normalisation in that part goes by
    the clip at hand, since what it has learned of activations holds no more.
    """
    drawn = copy.deepcopy(detector)
    generator = torch.Generator().manual_seed(seed)
    holders = [m for m in drawn.backbone.modules() if next(m.parameters(recurse=False), None) is not None]
    first = len(holders) - round(len(holders) * level / (len(CASCADE) - 1))
    for module in [*drawn.head.modules(), *holders[first:]]:
        with torch.no_grad():
            for parameter in module.parameters(recurse=False):
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    return drawn
