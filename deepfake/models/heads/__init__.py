"""Heads: frame features and a mask to logits. One family per file; chosen by the options' class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepfake.errors import UserError, nearest
from deepfake.models.heads.base import Head, Output
from deepfake.models.heads.convlstm import ConvLstmHead
from deepfake.models.heads.mean import MeanHead
from deepfake.models.heads.recurrent import GruHead, LstmHead
from deepfake.models.heads.vit import VitHead
from deepfake.models.options import ConvLstm, Gru, HeadOptions, Lstm, Mean, Vit

__all__ = ["HEADS", "Head", "Output", "create_head"]

#: Which head each class of options describes. A new head is a class of options, a module and a line here.
HEADS: dict[type[HeadOptions], Callable[[Any, int], Head]] = {
    Mean: MeanHead,
    Lstm: LstmHead,
    Gru: GruHead,
    Vit: VitHead,
    ConvLstm: ConvLstmHead,
}


def create_head(options: HeadOptions, features: int) -> Head:
    """Build the head that ``options`` describes.

    Args:
        options: An instance of one of the classes in :data:`HEADS`.
        features: Width D of what it reads.

    Raises:
        UserError: No head belongs to the options' class.
    """
    if type(options) not in HEADS:
        name = type(options).__name__
        raise UserError(f"no head is described by {name}", nearest(name, (known.__name__ for known in HEADS)))
    return HEADS[type(options)](options, features)
