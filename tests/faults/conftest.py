"""What the tests of faults share: forks that run commands, and small disks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: Mounts a tmpfs of so many megabytes, and returns its folder.
Disk = Callable[..., Path]


@pytest.fixture
def tell(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[int], None]:
    """Print how many inputs a test gave, past the capture."""

    def told(count: int) -> None:
        with capsys.disabled():
            print(f"\n{request.node.name}: {count} inputs, 0 crashes", end="")

    return told


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """``disk(300)`` is a disk of 300 MB; ``disk(1, "ro")`` one that is read only."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    mounted: list[Path] = []

    def mount(megabytes: float, *options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        given = ",".join([f"size={int(megabytes * 1024)}k", *options])
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", given, "none", folder], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode(errors='replace').strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)
