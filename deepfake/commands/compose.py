"""Configs for commands that are no Hydra app: the same groups, keys and overrides as ``train.py``."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from deepfake.commands.front import register_resolvers
from deepfake.commands.habits import refuse_empty_choices
from deepfake.config import RunConfig, load_config
from deepfake.installation import CONF


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """What ``python train.py <overrides>`` would run, composed but not checked.

    Raises:
        UserError: A group is given something else than a choice's name.
        HydraException: A group, choice or key that does not exist; the front door translates it.
    """
    refuse_empty_choices(overrides)
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


def compose_run(overrides: Sequence[str]) -> RunConfig:
    """The same, typed and checked."""
    return load_config(compose_config(overrides))
