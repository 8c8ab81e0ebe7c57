"""What appears whole under its name, and what killed processes left beside it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from deepfake.data.demo import make_demo
from deepfake.data.options import DemoOptions
from deepfake.files import appearing, remove_halves

#: Small enough to be made in a moment.
DEMO = DemoOptions(people=2, seconds=0.1, size=32)


def killed(call, *arguments: object) -> None:
    """Call in a process that is killed within it."""
    child = multiprocessing.get_context("fork").Process(target=call, args=arguments)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


def stopped_in(path: Path) -> None:
    with appearing(path) as half:
        half.mkdir()
        (half / "data").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def stopped_in_the_demo(folder: Path) -> None:
    import deepfake.data.demo

    deepfake.data.demo._write_splits = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
    make_demo(DEMO, folder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_fails_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("former")
    with pytest.raises(FileNotFoundError), appearing(tmp_path / "a") as half:
        (half / "beside").write_text("half")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "former"


def test_who_writes_next_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    killed(stopped_in, tmp_path / "store")
    assert len(names(tmp_path)) == 1
    with appearing(tmp_path / "store") as half:
        assert names(tmp_path) == []
        half.write_text("whole")
    assert names(tmp_path) == ["store"]


def test_the_halves_of_a_folder_are_removed_but_not_those_of_the_living_or_of_others(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    killed(stopped_in, tmp_path / "runs" / "last.pt")
    (tmp_path / ".other-1-0123abcd.last.pt").touch()
    (tmp_path / ".hidden-file.txt").touch()
    with appearing(tmp_path / "mine") as half:
        half.touch()
        remove_halves(tmp_path)
        assert half.exists()
    assert names(tmp_path) == [".hidden-file.txt", ".other-1-0123abcd.last.pt", "mine", "runs"]
    assert names(tmp_path / "runs") == []


def test_a_demo_whose_making_was_killed_is_made_by_the_next_and_leaves_no_half(tmp_path: Path) -> None:
    killed(stopped_in_the_demo, tmp_path)
    assert len(names(tmp_path)) == 2  # the lock and the half
    root = make_demo(DEMO, tmp_path)
    assert names(tmp_path) == sorted([f".{root.name}.lock", root.name])
