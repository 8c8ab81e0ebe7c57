"""Registers with Hydra the sweeps/ config root and our sweeper; the work is done in ``deepfake.sweeping``.

Hydra imports every module of this namespace at every start, so nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Any, cast

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from deepfake.installation import SWEEPS


class SweepsSearchPath(SearchPathPlugin):
    """Appends the folder ``sweeps/``: the groups search, sampler, pruner and launchers."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("deepfake-sweeps", f"file://{SWEEPS}")


class DeepfakeSweeper(Sweeper):
    """``hydra/sweeper=deepfake``: a plain grid, or a study when there is a space to search.

    Args:
        settings: The ``hydra.sweeper`` node; see ``sweeps/hydra/sweeper/deepfake.yaml``.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.setting = (hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        from deepfake.sweeping.sweeper import sweep

        context, task, config = self.setting
        plain = OmegaConf.to_container(OmegaConf.create(self.settings), resolve=True)
        return sweep(context, task, config, arguments, cast("dict[str, Any]", plain))
