"""Being noticed in a folder: by who would remove it, until one's process is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deepfake.presence import InUseError, alone, at_work, discard, enter


def test_several_may_be_at_work_and_nobody_is_alone_then(tmp_path: Path) -> None:
    with at_work(tmp_path), at_work(tmp_path), pytest.raises(InUseError, match=str(tmp_path)), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_who_forgets_a_lock_lets_go_of_it(tmp_path: Path) -> None:
    held = enter(tmp_path)
    assert held is not None
    del held
    with alone(tmp_path):
        pass


def test_a_killed_process_is_no_longer_at_work(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from deepfake.presence import enter\n"
        "held = enter(Path(sys.argv[1])); print('in', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"in\n"
    with pytest.raises(InUseError), alone(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with alone(tmp_path):
        pass


def test_who_comes_while_a_folder_is_removed_waits_and_is_in_the_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    entered: list[object] = []
    with alone(folder):
        thread = threading.Thread(target=lambda: entered.append(enter(folder)))
        thread.start()
        thread.join(0.2)
        assert not entered
        shutil.rmtree(folder)
    thread.join(30)
    assert entered
    assert folder.is_dir()
    with pytest.raises(InUseError), alone(folder):
        pass


def test_who_waited_while_a_folder_was_removed_does_not_hold_what_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with alone(folder):
        discard(folder)
        assert not folder.exists()
        with alone(folder):
            assert not folder.exists()
        held = enter(folder)
        with pytest.raises(InUseError), alone(folder):
            pass
        assert held is not None


def test_a_folder_that_somebody_came_into_is_not_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    remove, entered = Path.rmdir, []

    def late(path: Path) -> None:
        entered.append(enter(path))
        remove(path)

    monkeypatch.setattr(Path, "rmdir", late)
    with alone(folder):
        discard(folder)
    assert folder.is_dir()
    assert entered[0] is not None
    with pytest.raises(InUseError), alone(folder):
        pass


def test_a_folder_with_more_in_it_is_not_discarded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="not empty"), alone(tmp_path):
        discard(tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_notices_nobody(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert enter(tmp_path) is None
    tmp_path.chmod(0o700)


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".in-use.lock").symlink_to(tmp_path / "elsewhere")
    assert enter(folder) is None
    assert not (tmp_path / "elsewhere").exists()
