"""Heads: frame features and a mask to logits. One family per file; the options say which class they describe."""

from __future__ import annotations

import importlib

from deepfake.errors import UserError, nearest
from deepfake.models.heads.base import Head, Output
from deepfake.models.options import HeadOptions

__all__ = ["Head", "Output", "create_head"]


def create_head(options: HeadOptions, features: int) -> Head:
    """Build the head that ``options`` describes.

    Args:
        options: Of a class that says what it is ``built_by``.
        features: Width D of what it reads.

    Raises:
        UserError: The options' class describes no head.
    """
    if not options.built_by:
        name = type(options).__name__
        known = [described.__name__ for described in HeadOptions.__subclasses__()]
        raise UserError(f"no head is described by {name}", nearest(name, known))
    module, _, name = options.built_by.rpartition(".")
    head: Head = getattr(importlib.import_module(f"{__name__}.{module}"), name)(options, features)
    return head
