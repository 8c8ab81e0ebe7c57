"""What a user can say about a model: the ``backbone.*`` and ``head.*`` keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from deepfake.options import LARGEST, MOST, WIDEST, chosen, environment, ranged


@dataclass
class BackboneOptions:
    """A timm model by its own name, its weights, and how it is trained.

    ``lr`` None means a tenth of the head's rate. ``weights`` is a local file to load instead of timm's.
    """

    name: str = "resnet50"
    pretrained: bool = True
    weights: str | None = environment(None, of_data=True)
    freeze: bool = False
    # Which part is trained where it is not frozen; see :mod:`deepfake.models.tuning`.
    tune: str = chosen("all", ("all", "norms", "bias", "last_n", "lora"))
    last_n: int = ranged(2, low=1, high=1000)
    lora_rank: int = ranged(8, low=1, high=WIDEST)
    lora_alpha: float = ranged(16.0, above=0, high=LARGEST)
    lr: float | None = ranged(None, low=0, high=LARGEST)
    # Each layer's rate against that of the next one towards the head; None: all have the same.
    layer_decay: float | None = ranged(None, above=0, high=1)
    drop_rate: float = ranged(0.0, low=0, high=0.99)
    drop_path_rate: float = ranged(0.0, low=0, high=0.99)
    # Frames are brought to this side before they are read; None reads them as they are stored.
    size: int | None = ranged(None, low=16, high=1024)
    # Frames a forward pass reads at once; None reads the whole batch.
    chunk: int | None = ranged(None, low=1, high=MOST)
    grad_checkpointing: bool = False


@dataclass
class HeadOptions:
    """What every head shares. A head is chosen by its class, never by a branch on its name."""

    #: Whether the order of frames matters: such heads get consecutive frames, others evenly spaced ones.
    temporal: ClassVar[bool] = False
    #: What it reads: ``vectors`` [B, T, D] or ``maps`` [B, T, D, h, w].
    reads: ClassVar[str] = "vectors"
    #: The class that it describes, a :class:`deepfake.models.heads.Head`, as ``module.Class`` below that package.
    built_by: ClassVar[str] = ""

    dropout: float = ranged(0.2, low=0, high=0.95)


@dataclass
class Mean(HeadOptions):
    """A linear classifier on each frame; the clip's logit is the mean of its frames'."""

    built_by: ClassVar[str] = "mean.MeanHead"


@dataclass
class Lstm(HeadOptions):
    """A (bidirectional) LSTM over frame features and their changes, averaged over time."""

    built_by: ClassVar[str] = "recurrent.LstmHead"
    temporal: ClassVar[bool] = True
    hidden: int = ranged(256, low=1, high=WIDEST)
    layers: int = ranged(1, low=1, high=8)
    bidirectional: bool = True


@dataclass
class Gru(HeadOptions):
    """A (bidirectional) GRU over frame features and their changes, averaged over time."""

    built_by: ClassVar[str] = "recurrent.GruHead"
    temporal: ClassVar[bool] = True
    hidden: int = ranged(256, low=1, high=WIDEST)
    layers: int = ranged(1, low=1, high=8)
    bidirectional: bool = True


@dataclass
class Vit(HeadOptions):
    """A transformer encoder over the patches of the backbone's feature maps, with positions in time and place."""

    built_by: ClassVar[str] = "vit.VitHead"
    temporal: ClassVar[bool] = True
    reads: ClassVar[str] = "maps"
    width: int = ranged(256, low=8, high=WIDEST)
    depth: int = ranged(2, low=1, high=24)
    heads: int = ranged(4, low=1, high=32)
    mlp_ratio: float = ranged(2.0, above=0, high=1024)
    # Maps larger than this many patches a side are average-pooled down to it.
    max_grid: int = ranged(7, low=1, high=64)
    # Whether each frame's change from the one before stands beside it; heads saved before there was a choice have none.
    changes: bool = False


@dataclass
class ConvLstm(HeadOptions):
    """A convolutional LSTM over the backbone's feature maps (Shi et al. 2015, arXiv:1506.04214)."""

    built_by: ClassVar[str] = "convlstm.ConvLstmHead"
    temporal: ClassVar[bool] = True
    reads: ClassVar[str] = "maps"
    hidden: int = ranged(128, low=1, high=WIDEST)
    layers: int = ranged(1, low=1, high=4)
    kernel: int = ranged(3, low=1, high=9)
    # Whether each frame's change from the one before stands beside it; heads saved before there was a choice have none.
    changes: bool = False


def head_options(saved: Mapping[str, Any]) -> HeadOptions:
    """A head's options from plain values, of which ``kind`` names their class.

    Raises:
        ValueError: There is no such head.
        KeyError, TypeError: They are not all there, or others.
    """
    kinds = {kind.__name__: kind for kind in HeadOptions.__subclasses__()}
    values = {name: value for name, value in saved.items() if name != "kind"}
    if saved["kind"] not in kinds:
        raise ValueError(f"no head {saved['kind']!r}; there are {', '.join(sorted(kinds))}")
    return kinds[saved["kind"]](**values)
