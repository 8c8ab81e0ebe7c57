"""Lets ``experiment=`` take the path of a file, such as a sweep's best.yaml, beside the names in conf/experiment.

Hydra imports every module of this namespace at every start, so nothing heavy is imported here.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from deepfake.compat import config_header
from deepfake.errors import UserError

_GROUP = "experiment/"
_SCHEME = "experiment-file"
#: Beyond these no experiment goes; each alias counts as all that it stands for.
_MOST_BYTES, _MOST_VALUES = 1 << 20, 100_000


class ExperimentFile(ConfigSource):
    """Finds ``experiment/<path>.yaml`` at that path, absolute or from the working directory."""

    @staticmethod
    def scheme() -> str:
        return _SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        path = _file(config_path)
        if path is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        text, config = _read(path)
        header = config_header(ConfigSource, text[:512])
        return ConfigResult(config=config, path=f"{_SCHEME}://", provider=self.provider, header=header)

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


def _read(path: Path) -> tuple[str, DictConfig]:
    """The text of an experiment file and its keys.

    Raises:
        UserError: It is no YAML mapping of plain values, or more than any experiment is.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
        # Before anything is unfolded: a few lines of aliases of aliases can stand for billions of values.
        if _count(yaml.compose(text, Loader=yaml.SafeLoader), {}) > _MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {_MOST_VALUES:,} values")
        config = OmegaConf.load(io.StringIO(text))
        if not isinstance(config, DictConfig) or not config:
            raise ValueError("it holds no keys")
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"experiment={path} cannot be read: {why}", "it is YAML: keys as in conf/train.yaml, with their values"
        ) from error
    return text, config


def _count(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a node of YAML stands for, its aliases unfolded; each node is counted once."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 0
        inner = [one for item in node.value for one in (item if isinstance(item, tuple) else (item,))]
        total = 1 + sum(_count(one, known) for one in inner)
        known[id(node)] = total
    elif known[id(node)] == 0:
        raise ValueError("an alias in it stands for what it lies in")
    return known[id(node)]
