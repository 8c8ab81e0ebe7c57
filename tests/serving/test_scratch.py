"""Folders of a service: one each, always removed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deepfake.serving.scratch import Kept, request_folder, service_folder

HELD = """
import sys, time
from pathlib import Path
from deepfake.serving.scratch import service_folder
with service_folder(Path(sys.argv[1])) as folder:
    (folder / "upload").write_text("private")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_folder_goes_with_the_service(tmp_path: Path) -> None:
    with service_folder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "x").touch()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_service_left_goes_at_the_next_start_and_a_living_ones_stays(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HELD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    with service_folder(tmp_path):
        assert (left / "upload").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (left / "upload").exists()
    with service_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_a_link_in_the_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".lock").touch()
    place = tmp_path / "place"
    place.mkdir()
    os.symlink(tmp_path / "elsewhere", place / "deepfake-serve-0-x")
    with service_folder(place):
        assert (tmp_path / "elsewhere" / ".lock").exists()


def test_a_requests_folder_goes_however_it_ends(tmp_path: Path) -> None:
    async def run(how: type[BaseException]) -> None:
        async with request_folder(tmp_path) as folder:
            (folder / "upload").touch()
            raise how

    for how in (ValueError, asyncio.CancelledError):
        with pytest.raises(how):
            asyncio.run(run(how))
        assert list(tmp_path.iterdir()) == []


def test_the_oldest_of_too_many_goes(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept", seconds=60, most=2)
    names = []
    for number in range(3):
        made = tmp_path / f"{number}.mp4"
        made.touch()
        names.append(kept.take(made))
    assert [kept.find(name) is not None for name in names] == [False, True, True]
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert len(set(names)) == 3
    assert min(map(len, names)) > 30


def test_names_that_were_never_given_lead_nowhere(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept", seconds=60, most=2)
    (tmp_path / "kept" / "real.mp4").touch()
    assert kept.find("real.mp4") is None
    assert kept.find("../x") is None
