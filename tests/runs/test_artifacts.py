"""What a killed command leaves in the place for temporary files goes with the next."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from deepfake.runs.artifacts import scratch_folder

_HOLD = """
import os, sys
from deepfake.runs.artifacts import scratch_folder
with scratch_folder("predict") as folder:
    (folder / "crops").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def _holder() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.slow
def test_a_killed_commands_folder_goes_with_the_next_and_a_living_ones_stays(place: Path) -> None:
    dead, left = _holder()
    dead.kill()
    dead.communicate()
    living, used = _holder()  # removes it already
    assert not left.exists()
    with scratch_folder("predict"):
        assert (used / "crops").exists()
    living.communicate("")
    assert list(place.iterdir()) == []


def test_a_signal_as_the_folder_is_made_leaves_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def interrupted(self: Path, *arguments: object, **more: object) -> None:
        make(self, *arguments, **more)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), scratch_folder("predict"):
        pass
    assert list(place.iterdir()) == []


def _plant(place: Path, host: str, process: int) -> Path:
    folder = place / f"deepfake-predict-{host}-{process}-abc"
    folder.mkdir()
    return folder


def _unused_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_folders_of_another_machine_and_of_another_verb_stay(place: Path) -> None:
    process = _unused_process()
    elsewhere = _plant(place, "another-host", process)
    other = place / f"deepfake-evaluate-{socket.gethostname()}-{process}-abc"
    other.mkdir()
    with scratch_folder("predict"):
        pass
    assert elsewhere.exists()
    assert other.exists()


def test_a_folder_that_is_locked_stays_whatever_its_process_number_says(place: Path) -> None:
    folder = _plant(place, socket.gethostname(), _unused_process())
    with FileLock(folder / ".lock"), scratch_folder("predict"):
        pass
    assert folder.exists()
    with scratch_folder("predict"):
        assert not folder.exists()


def test_a_link_is_not_followed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    precious = tmp_path_factory.mktemp("precious")
    (precious / "file").touch()
    os.symlink(precious, place / f"deepfake-predict-{socket.gethostname()}-{_unused_process()}-abc")
    with scratch_folder("predict"):
        pass
    assert (precious / "file").exists()
