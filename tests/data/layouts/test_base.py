"""Listing files among links, circles of them, and what is no file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepfake.data.layouts.base import list_files, list_folders
from tests.data.layouts.trees import plant

MP4 = frozenset({".mp4"})


def _listed(root: Path, folder: str = "", depth: int = 9) -> list[str]:
    return [file.path for file in list_files(root, folder, MP4, depth)]


def test_a_link_to_a_folder_above_is_not_followed(tmp_path: Path) -> None:
    plant(tmp_path, ["real/a.mp4", "fake/b.mp4"])
    (tmp_path / "fake" / "circle").symlink_to("..")
    assert _listed(tmp_path) == ["fake/b.mp4", "real/a.mp4"]
    assert _listed(tmp_path, "fake") == ["fake/b.mp4"]


def test_a_folder_that_two_names_lead_to_is_read_under_its_own(tmp_path: Path) -> None:
    plant(tmp_path, ["z/deep/a.mp4"])
    (tmp_path / "link").symlink_to("z")
    (tmp_path / "z" / "again").symlink_to("deep")
    assert _listed(tmp_path) == ["z/deep/a.mp4"]


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    plant(tmp_path, ["elsewhere/a.mp4", "set/b.mp4"])
    (tmp_path / "set" / "more").symlink_to(tmp_path / "elsewhere")
    assert _listed(tmp_path / "set") == ["b.mp4", "more/a.mp4"]


def test_many_circles_do_not_multiply(tmp_path: Path) -> None:
    plant(tmp_path, [f"d{i}/a.mp4" for i in range(6)])
    for i in range(6):
        for j in range(6):
            (tmp_path / f"d{i}" / f"to{j}").symlink_to(f"../d{j}")
    assert _listed(tmp_path, depth=20) == [f"d{i}/a.mp4" for i in range(6)]


def test_links_that_lead_to_themselves_or_nowhere_are_files_that_will_not_open(tmp_path: Path) -> None:
    plant(tmp_path, ["good.mp4"])
    (tmp_path / "a.mp4").symlink_to("b.mp4")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    (tmp_path / "folder").symlink_to("folder")
    sizes = {file.path: file.bytes for file in list_files(tmp_path, "", MP4, 3)}
    assert {name: sizes[name] for name in ("a.mp4", "b.mp4", "gone.mp4")} == dict.fromkeys(
        ("a.mp4", "b.mp4", "gone.mp4"), -1
    )
    assert "good.mp4" in sizes
    assert list_folders(tmp_path) == []


def test_a_folder_above_that_may_not_be_looked_into_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, ["set/a.mp4"])
    real = os.stat

    def refuse(path: object, **more: object) -> os.stat_result:
        if path == tmp_path:
            raise PermissionError
        return real(path, **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("deepfake.data.layouts.base.os.stat", refuse)
    assert _listed(tmp_path / "set") == ["a.mp4"]


def test_a_pipe_is_listed_like_any_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert _listed(tmp_path) == ["pipe.mp4"]
