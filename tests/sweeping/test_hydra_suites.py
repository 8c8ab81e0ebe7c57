"""Hydra's own suites for launchers and sweepers, on the plugin as it is installed, in Hydra's own small apps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from hydra.version import VersionBase, __compat_version__

OURS = ["hydra/sweeper=deepfake"]

pytestmark = pytest.mark.filterwarnings("ignore:Future Hydra versions")


@pytest.fixture(autouse=True)
def _no_version_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suites expect what Hydra does for an app that names no version; other tests of this process name one."""
    monkeypatch.setattr(VersionBase.instance(), "version_base", __compat_version__)


@pytest.fixture(autouse=True)
def _no_log_files_left() -> Iterator[None]:
    """Each of Hydra's jobs sets up logging for the whole process, into a file of a folder that does not stay."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_hydra_finds_the_plugin() -> None:
    assert "DeepfakeSweeper" in [kind.__name__ for kind in Plugins.instance().discover(Sweeper)]


def test_a_grid_returns_what_hydras_own_sweeper_returns(hydra_sweep_runner: Any) -> None:
    sweep = hydra_sweep_runner(
        calling_file=None,
        calling_module="hydra.test_utils.a_module",
        config_path="configs",
        config_name="compose.yaml",
        task_function=None,
        overrides=[*OURS, "hydra/launcher=basic", "foo=1,2"],
        temp_dir=None,
    )
    with sweep:
        (jobs,) = sweep.returns
        assert [job.overrides for job in jobs] == [["foo=1"], ["foo=2"]]
        assert [job.cfg for job in jobs] == [{"foo": 1, "bar": 100}, {"foo": 2, "bar": 100}]


@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", OURS)])
class TestLauncher(LauncherTestSuite):
    """Jobs, their overrides, folders and configs."""


@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", [*OURS, "hydra.sweeper.max_batch_size=2"])])
class TestBatches(BatchedSweeperTestSuite):
    """Jobs launched some at a time."""


@pytest.mark.slow
@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [({}, ["-m", *OURS, "hydra/launcher=basic"])])
class TestIntegration(IntegrationTestSuite):
    """Apps in processes of their own."""
