"""Composing the project's own configs inside tests."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from deepfake.commands.front import PROJECT, register_resolvers


def composed(overrides: Sequence[str] = ()) -> DictConfig:
    """conf/train.yaml with these overrides, as a command would see it."""
    register_resolvers()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return compose("train", list(overrides))
