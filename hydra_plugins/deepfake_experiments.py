"""Lets ``experiment=`` take the path of a file, such as a sweep's best.yaml, beside the names in conf/experiment.

Hydra imports every module of this namespace at every start, so nothing heavy is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from deepfake.compat import config_header

_GROUP = "experiment/"
_SCHEME = "experiment-file"


class ExperimentFile(ConfigSource):
    """Finds ``experiment/<path>.yaml`` at that path, absolute or from the working directory."""

    @staticmethod
    def scheme() -> str:
        return _SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        path = _file(config_path)
        if path is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        header = config_header(ConfigSource, path.read_text(encoding="utf-8")[:512])
        return ConfigResult(config=OmegaConf.load(path), path=f"{_SCHEME}://", provider=self.provider, header=header)

    def is_config(self, config_path: str) -> bool:
        return _file(config_path) is not None

    def is_group(self, config_path: str) -> bool:
        return False

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> Any:
        return []


class ExperimentSearchPath(SearchPathPlugin):
    """Asks for files after all config folders."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("experiment-files", f"{_SCHEME}://")


def _file(config_path: str) -> Path | None:
    if not config_path.startswith(_GROUP):
        return None
    path = Path(config_path[len(_GROUP) :]).expanduser()
    # A name without a folder or an ending is a choice of the group, not a file that happens to lie here.
    path = path if path.suffix == ".yaml" else path.with_name(path.name + ".yaml")
    return path if path.is_file() and len(path.parts) > 1 else None
