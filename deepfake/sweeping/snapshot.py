"""The config files as they are when a sweep begins, read once: every job composes from the same.

Hydra reads all files anew for each job, so that one edited meanwhile changes the jobs that are still to come, and
may no longer fit the code that is loaded. Knows Hydra's repository of config files; nothing of jobs.
"""

from __future__ import annotations

import copy
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource


def freeze(loader: ConfigLoader) -> None:
    """From now on this loader reads each config file once, also in the processes it is sent to."""
    if isinstance(loader, ConfigLoaderImpl) and not isinstance(loader.repository, Snapshot):
        loader.repository = Snapshot(loader.repository)  # type: ignore[assignment]


class Snapshot(IConfigRepository):
    """A repository that remembers what it has read."""

    def __init__(self, repository: IConfigRepository) -> None:
        self._repository = repository
        self._read: dict[str, ConfigResult | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Snapshot:
        # Hydra copies its repository for every job; what this one hands out are copies already.
        return self

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._read:
            self._read[config_path] = self._repository.load_config(config_path)
        return copy.deepcopy(self._read[config_path])

    def get_schema_source(self) -> ConfigSource:
        return self._repository.get_schema_source()

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        self._repository.initialize_sources(config_search_path)

    def group_exists(self, config_path: str) -> bool:
        return self._repository.group_exists(config_path)

    def config_exists(self, config_path: str) -> bool:
        return config_path in self._read or self._repository.config_exists(config_path)

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        return self._repository.get_group_options(group_name, results_filter)

    def get_sources(self) -> list[ConfigSource]:
        return self._repository.get_sources()
