"""What several rooms' tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked import Forks

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests beside each other share the cores; before torch is imported, which reads it once.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As a script's background starts it; what is tested of Ctrl-C is what a person at a terminal meets.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="inject every fault and fuzz every input, not the sample that CI takes"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # Commands run whole.
        if "forks" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    # First what takes long, so that no process is left alone with it at the end.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether `--full` was given: the counts of docs/reliability.md, rather than the sample of them that CI takes."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real data beside the repository; tests that need it skip themselves without it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """``forks("train", …, outputs=…)`` runs a command in a fork of a process that has imported what commands need."""
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.close()
