"""What a user names, to files in order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepfake.commands.inputs import expand_inputs
from deepfake.errors import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_files_come_in_the_order_named(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a.jpg")
    found = expand_inputs([str(tmp_path / "b.mp4"), str(tmp_path / "a.jpg"), str(tmp_path / "b.mp4")])
    assert [(one.path.name, one.kind) for one in found] == [("b.mp4", "video"), ("a.jpg", "image"), ("b.mp4", "video")]


def test_a_folder_gives_its_videos_and_images_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "z.mp4", "notes.txt", "inner/a.png", ".hidden.mp4")
    assert [one.path.relative_to(tmp_path).as_posix() for one in expand_inputs([str(tmp_path)])] == [
        "inner/a.png",
        "z.mp4",
    ]


def test_a_glob_gives_its_matches_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "2.mp4", "1.mp4", "1.txt")
    assert [one.path.name for one in expand_inputs([f"{tmp_path}/*.mp4"])] == ["1.mp4", "2.mp4"]


def test_a_file_whose_name_looks_like_a_glob_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, "take[1].mp4", "take1.mp4")
    assert [one.path.name for one in expand_inputs([str(tmp_path / "take[1].mp4")])] == ["take[1].mp4"]


def test_what_leads_nowhere_keeps_its_place_with_a_reason(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", "empty/x.txt")
    named = ["missing.mp4", "a.txt", "empty", "*.avi"]
    reasons = [one.reason for one in expand_inputs([str(tmp_path / name) for name in named])]
    assert reasons == ["not_found", "unsupported", "nothing_inside", "not_found"]


def test_an_empty_name_is_a_mistake_and_not_the_working_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty"):
        expand_inputs([str(tmp_path), ""])


def test_a_circle_of_links_gives_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4", "fake/b.mp4")
    for name in ("one", "two"):
        (tmp_path / "fake" / name).symlink_to("..")
    for named in (str(tmp_path), f"{tmp_path}/**/*.mp4", f"{tmp_path}/**"):
        found = [one.path.relative_to(tmp_path).as_posix() for one in expand_inputs([named])]
        assert found == ["fake/b.mp4", "real/a.mp4"]


def test_two_stars_read_folders_below_and_the_one_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "x/y[1]/b.mp4", "x/y[1]/c.txt", "z/d.mp4")
    found = expand_inputs([f"{tmp_path}/**/*.mp4"])
    assert [one.path.name for one in found] == ["a.mp4", "b.mp4", "d.mp4"]
    assert [one.path.name for one in expand_inputs([f"{tmp_path}/x/**/b.*"])] == ["b.mp4"]


def test_two_stars_begin_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.mp4", "x/b.mp4")
    monkeypatch.chdir(tmp_path)
    assert [str(one.path) for one in expand_inputs(["**/*.mp4"])] == ["a.mp4", "x/b.mp4"]


def test_pipes_and_links_to_themselves_are_inputs_whose_reason_is_told_later(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    named = [str(tmp_path / "pipe.mp4"), str(tmp_path / "loop.mp4"), f"{tmp_path}/p*.mp4"]
    assert [(one.kind, one.reason) for one in expand_inputs(named)] == [("video", "")] * 3
