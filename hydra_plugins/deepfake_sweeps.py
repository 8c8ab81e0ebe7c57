"""Registers with Hydra the sweeps/ config root and our sweeper; the work is done in ``deepfake.sweeping``.

Hydra imports every module of this namespace at every start, so nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from deepfake.installation import SWEEPS


class SweepsSearchPath(SearchPathPlugin):
    """Appends the folder ``sweeps/``: the groups search, sampler, pruner and launchers."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("deepfake-sweeps", f"file://{SWEEPS}")


class DeepfakeSweeper(Sweeper):
    """``hydra/sweeper=deepfake``: a plain grid, or a study when there is a space to search.

    Args:
        observer: Dotted path of a class that hears what happens (``deepfake.sweeping.observer``), or None.
    """

    def __init__(self, observer: str | None = None) -> None:
        self.observer = observer

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.setting = (hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        from deepfake.sweeping.sweeper import sweep

        context, task, config = self.setting
        return sweep(context, task, config, arguments, self.observer)
